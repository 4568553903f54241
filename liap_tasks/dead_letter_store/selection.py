"""Which rows a filter means, and how a page of them is read without looking at the others.

A page is in order of death. An index can hand it out in order only while everything before the order has one value, so
a page over several states (or reasons, tasks, queues) is the union of one short page for each combination: a page of a
million letters reads no more rows than it shows, times the combinations.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import sqlalchemy as sa

from liap_tasks.dead_letter_store.letter import LetterFilter
from liap_tasks.dead_letter_store.schema import LETTERS

__all__ = ["condition", "page"]

MOST_BRANCHES = 48

_table = LETTERS.c


def condition(where: LetterFilter) -> sa.ColumnElement[bool]:
    """Return the SQL condition of a filter."""
    conditions: list[sa.ColumnElement[bool]] = [_one_of(_table.state, where.chosen_states)]
    for column, values in (
        (_table.id, where.ids),
        (_table.reason, where.reasons),
        (_table.task, where.tasks),
        (_table.queue, where.queues),
    ):
        if values:
            conditions.append(_one_of(column, values))
    if where.correlation_id is not None:
        conditions.append(_table.correlation_id == where.correlation_id)
    if where.replay_id is not None:
        conditions.append(_table.replay_id == where.replay_id)
    if where.died_before is not None:
        conditions.append(_table.died_at < where.died_before)
    if where.died_after is not None:
        conditions.append(_table.died_at > where.died_after)
    if where.due_before is not None:
        conditions.append(_table.due_at <= where.due_before)
    if where.error:
        texts = (_table.exception, _table.message, _table.traceback)
        conditions.append(sa.or_(*(text.icontains(where.error, autoescape=True) for text in texts)))
    return sa.and_(*conditions)


def page(where: LetterFilter, *, limit: int, after: tuple[float, int] | None, newest_first: bool) -> Any:
    """Return the query of the rows that follow ``after`` (died_at, seq) in order of death, at most ``limit``."""
    place = sa.tuple_(_table.died_at, _table.seq)
    parts = []
    for branch in _branches(where):
        part = sa.select(LETTERS).where(condition(branch))
        if after is not None:
            given = sa.tuple_(sa.literal(after[0], sa.Double), sa.literal(after[1], sa.BigInteger))
            part = part.where(place < given if newest_first else place > given)
        parts.append(_in_order(part, _table, newest_first).limit(limit))
    if len(parts) == 1:
        return parts[0]
    together = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery()
    return _in_order(sa.select(together), together.c, newest_first).limit(limit)


def _in_order(query: sa.Select[Any], columns: Any, newest_first: bool) -> sa.Select[Any]:
    order = (columns.died_at, columns.seq)
    return query.order_by(*(column.desc() for column in order)) if newest_first else query.order_by(*order)


def _branches(where: LetterFilter) -> list[LetterFilter]:
    if where.ids or where.correlation_id is not None or where.replay_id is not None:
        return [where]  # few rows, found by an index of their own
    branches = [replace(where, states=(state,)) for state in where.chosen_states]
    for name in ("tasks", "queues", "reasons"):
        values = getattr(where, name)
        if values and len(branches) * len(values) <= MOST_BRANCHES:
            chosen: list[dict[str, Any]] = [{name: (value,)} for value in values]
            branches = [replace(branch, **one) for branch, one in product(branches, chosen)]
    return branches


def _one_of(column: sa.ColumnElement[Any], values: tuple[str, ...]) -> sa.ColumnElement[bool]:
    return column == values[0] if len(values) == 1 else column.in_(values)
