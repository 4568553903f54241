"""Headers leave and enter a process as copies, as they would over a socket.

A publisher that changes a nested list after publishing, or a consumer that edits its headers, must not change what
others receive. Only values that AMQP 0-9-1 field tables can carry are taken.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from transports.errors import InvalidArgumentError

__all__ = ["copy_arguments", "copy_table"]

_PLAIN: frozenset[type] = frozenset({str, int, float, bool, bytes, type(None), datetime, Decimal})
_COMPARED: frozenset[type] = _PLAIN - {datetime, Decimal}


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
        return _copy_dict(table, _PLAIN)
    except _NotCarried as found:
        raise InvalidArgumentError(
            f"header {found.path}",
            found.value,
            "None, bool, int, float, str, bytes, datetime, Decimal, and lists and dicts of them",
        ) from None


def copy_arguments(arguments: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a deep copy of the arguments of a declaration, a binding or a consumer.

    Raises InvalidArgumentError naming the one with a value that a broker of ours does not compare: unlike headers,
    arguments have neither times nor Decimals.
    """
    if not arguments:
        return arguments
    try:
        return _copy_dict(arguments, _COMPARED)
    except _NotCarried as found:
        raise InvalidArgumentError(
            f"argument {found.path}", found.value, "None, bool, int, float, str, bytes, and lists and dicts of them"
        ) from None


def _copy_dict(table: dict[Any, Any], plain: frozenset[type]) -> dict[Any, Any]:
    # Twice per message: first the cheap copy, then only what needs more.
    copy = dict(table)
    for key, value in table.items():
        if type(value) not in plain:
            try:
                copy[key] = _copy_value(value, plain)
            except _NotCarried as found:
                raise _NotCarried(f"{key}.{found.path}".rstrip("."), found.value) from None
    return copy


def _copy_value(value: Any, plain: frozenset[type]) -> Any:
    if isinstance(value, dict):
        return _copy_dict(value, plain)
    if isinstance(value, list | tuple):
        return [item if type(item) in plain else _copy_value(item, plain) for item in value]
    # A member of an enumeration, or another subclass: its plain value travels.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes):
        return value
    if isinstance(value, datetime | Decimal) and datetime in plain:
        return value
    raise _NotCarried("", value)
