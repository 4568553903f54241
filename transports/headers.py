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


def copy_table(table: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy of a table of headers.

    Raises InvalidArgumentError naming the header whose value no broker could carry.
    """
    plain = _PLAIN
    copy = dict(table)
    for key, value in table.items():
        if type(value) not in plain:
            copy[key] = _copy_value(key, value)
    return copy


def _copy_value(key: str, value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        return {inner: _copy_value(f"{key}.{inner}", item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy_value(key, item) for item in value]
    # A member of an enumeration, or another subclass: its plain value travels.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes | datetime | Decimal):
        return value
    raise InvalidArgumentError(
        f"header {key}", value, "None, bool, int, float, str, bytes, datetime, Decimal, and lists and dicts of them"
    )
