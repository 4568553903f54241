"""Headers leave and enter a process as copies, as they would over a socket.

A publisher that changes a nested list after publishing, or a consumer that edits its headers, must not change what
others receive. Only values that AMQP 0-9-1 field tables can carry are taken.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from transports.errors import InvalidArgumentError

__all__ = ["copy_table"]

_PLAIN = frozenset({str, int, float, bool, bytes, type(None), datetime, Decimal})


class _NotCarried(Exception):
    """A value that no broker could carry, and the path to it."""

    def __init__(self, path: str, value: Any) -> None:
        super().__init__(path, value)
        self.path = path
        self.value = value


def copy_table(table: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy of a table of headers.

    Raises InvalidArgumentError naming the header whose value no broker could carry.
    """
    try:
        return _copy_dict(table)
    except _NotCarried as found:
        raise InvalidArgumentError(
            f"header {found.path}",
            found.value,
            "None, bool, int, float, str, bytes, datetime, Decimal, and lists and dicts of them",
        ) from None


def _copy_dict(table: dict[Any, Any]) -> dict[Any, Any]:
    # Twice per message: first the cheap copy, then only what needs more.
    plain = _PLAIN
    copy = dict(table)
    for key, value in table.items():
        if type(value) not in plain:
            try:
                copy[key] = _copy_value(value)
            except _NotCarried as found:
                raise _NotCarried(f"{key}.{found.path}".rstrip("."), found.value) from None
    return copy


def _copy_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _copy_dict(value)
    if isinstance(value, list | tuple):
        plain = _PLAIN
        return [item if type(item) in plain else _copy_value(item) for item in value]
    # A member of an enumeration, or another subclass: its plain value travels.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes | datetime | Decimal):
        return value
    raise _NotCarried("", value)
