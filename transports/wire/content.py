"""The part of a message that travels unread: its properties and headers as one block of bytes.

A broker passes the block on as it came. Only who writes headers (a dead letter), routes by them (a headers exchange) or
shows them (peek) opens it. The values are those of AMQP field tables; what msgpack has no type for gets an extension
type: 1 a Decimal (its text), 2 a datetime (ISO 8601).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgpack

__all__ = ["RULE_HEADERS", "pack_content", "pack_table", "unpack_content", "unpack_kept", "unpack_table"]

DECIMAL = 1
DATETIME = 2

#: The headers that a queue asks for. A publisher sends them beside the block, so that no broker opens it for them.
RULE_HEADERS = frozenset({"x-delay", "x-group-id", "x-group-continues", "x-deduplication-id"})


def _pack_special(value: Any) -> Any:
    if isinstance(value, Decimal):
        return msgpack.ExtType(DECIMAL, str(value).encode())
    if isinstance(value, datetime):
        return msgpack.ExtType(DATETIME, value.isoformat().encode())
    raise TypeError(f"no message can carry {value!r}")


def _unpack_special(code: int, data: bytes) -> Any:
    if code == DECIMAL:
        return Decimal(data.decode())
    if code == DATETIME:
        return datetime.fromisoformat(data.decode())
    raise ValueError(f"unknown extension type {code}")


def _keep_special(code: int, data: bytes) -> Any:
    try:
        return _unpack_special(code, data)
    except (ValueError, ArithmeticError):
        return msgpack.ExtType(code, data)


_pack = msgpack.packb
_unpack = msgpack.unpackb


def pack_table(table: Any) -> bytes:
    """Return a table (or any value that field tables can hold) as bytes.

    Raises TypeError for a value of another type, or an integer beyond 64 bits.
    """
    packed: bytes = _pack(table, default=_pack_special, use_bin_type=True)
    return packed


def unpack_table(block: bytes) -> Any:
    """Return what :func:`pack_table` packed. Raises ValueError for bytes that it did not write."""
    return _unpacked(block, _unpack_special)


def unpack_kept(block: bytes) -> Any:
    """Return the same for a table that was taken long ago: a value of an unknown type stays one, and packs again."""
    return _unpacked(block, _keep_special)


def _unpacked(block: bytes, special: Callable[[int, bytes], Any]) -> Any:
    try:
        return _unpack(block, ext_hook=special, strict_map_key=False)
    except (ValueError, TypeError, ArithmeticError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"not a packed table: {error}") from error


def pack_content(properties: dict[str, Any], headers: dict[str, Any] | None) -> bytes:
    """Return properties and headers as one block; errors as :func:`pack_table`."""
    return pack_table([properties, headers])


def unpack_content(block: bytes) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return (properties, headers) of a block; raises ValueError for a block of another shape."""
    content = unpack_table(block)
    if (
        not isinstance(content, list)
        or len(content) != 2
        or not isinstance(content[0], dict)
        or not isinstance(content[1], dict | None)
    ):
        raise ValueError("not the properties and headers of a message")
    return content[0], content[1]
