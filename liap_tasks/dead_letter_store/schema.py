"""The store's tables as queries see them; :mod:`~liap_tasks.dead_letter_store.migrations` makes them."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["AUDIT", "LETTERS", "METADATA"]

METADATA = sa.MetaData()

LETTERS = sa.Table(
    "dead_letters",
    METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("id", "state", "reason", "detail", "task", "task_id")),
    *(sa.Column(name, sa.String) for name in ("queue", "exchange", "routing_key")),
    *(sa.Column(name, sa.String) for name in ("exception", "message", "traceback")),
    *(sa.Column(name, sa.String) for name in ("attempts", "headers", "properties")),
    *(sa.Column(name, sa.String) for name in ("content_type", "content_encoding")),
    sa.Column("body", sa.LargeBinary),
    sa.Column("size", sa.BigInteger),
    sa.Column("correlation_id", sa.String),
    *(sa.Column(name, sa.Double) for name in ("died_at", "first_seen", "last_seen")),
    sa.Column("replayed_from", sa.String),
    sa.Column("replays", sa.Integer),
    sa.Column("replayed_at", sa.Double),
    *(sa.Column(name, sa.String) for name in ("replay_id", "replayed_as")),
    *(sa.Column(name, sa.Double) for name in ("due_at", "expires_at", "purged_at")),
    sa.Column("claimed_by", sa.String),
    sa.Column("claimed_until", sa.Double),
)

AUDIT = sa.Table(
    "dead_letter_audit",
    METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("letter_id", sa.String),
    sa.Column("at", sa.Double),
    *(sa.Column(name, sa.String) for name in ("who", "action", "before", "after")),
)
