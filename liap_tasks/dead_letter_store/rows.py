"""A letter as a row of the table, and back.

What other software sends must not keep a row from being written: names are cut to the width of their column, and text
loses what a database cannot hold (PostgreSQL has no NUL character, and UTF-8 no half of a surrogate pair). Structures
are JSON in a text column, written by kombu, which keeps times, decimals and bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kombu.utils import json as kombu_json

from liap_tasks.dead_letter_store.letter import Letter

__all__ = ["LETTER_FIELDS", "letter_from", "structure_from", "structure_text", "row_from"]

WIDTHS = {
    **dict.fromkeys(("task", "task_id", "queue", "exchange", "routing_key"), 255),
    **dict.fromkeys(("exception", "content_type", "content_encoding", "correlation_id"), 255),
    **dict.fromkeys(("id", "reason", "replayed_from"), 64),
    **dict.fromkeys(("detail", "message", "traceback"), None),
}
STRUCTURES = ("attempts", "headers", "properties")
LETTER_FIELDS = tuple(Letter.__dataclass_fields__)

_decode = json.JSONDecoder(object_hook=kombu_json.object_hook).decode  # kombu's loads builds one for each text (5.7)


def row_from(letter: Letter, now: float) -> dict[str, Any]:
    """Return the row of a letter that is recorded ``now``."""
    row = {name: getattr(letter, name) for name in LETTER_FIELDS}
    for name, width in WIDTHS.items():
        if row[name] is not None:
            row[name] = _storable(row[name])[:width]
    for name in STRUCTURES:
        row[name] = structure_text(row[name])
    row["state"] = str(row["state"])
    row["size"] = len(letter.body)
    row["first_seen"] = row["last_seen"] = now
    return row


def letter_from(row: Mapping[Any, Any]) -> Letter:
    """Return the letter of a row."""
    fields = {name: row[name] for name in LETTER_FIELDS}
    for name in STRUCTURES:
        fields[name] = structure_from(fields[name])
    fields["body"] = bytes(fields["body"])
    return Letter(**fields)


def structure_text(value: Any) -> str:
    """Return a structure as JSON (ASCII, so any database holds it); what JSON cannot carry is its ``repr``."""
    try:
        return str(kombu_json.dumps(value))
    except (TypeError, ValueError):
        return json.dumps(value, default=repr, skipkeys=True)


def structure_from(text: str) -> Any:
    """Return what :func:`structure_text` was given; other software's look-alikes of kombu's marks stay as they are."""
    try:
        return _decode(text)
    except ValueError:
        return json.loads(text)


def _storable(given: object) -> str:
    text = str(given)
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
