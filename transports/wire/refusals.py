"""What the engine refuses, as it travels: an array of a word and the error's data.

``["channel", code, text]``, ``["argument", name, value, allowed, plain]`` (a value that is not plain as its text),
``["full", queue, max length, retry after]``, and ``["broken", text]`` for a defect of the broker (its log tells more).
"""

from __future__ import annotations

import reprlib
from typing import Any

from transports.engine.errors import ChannelRefusal, EngineError, InvalidArgument, QueueFull

__all__ = ["BrokerDefect", "pack_refusal", "shown", "unpack_refusal"]


class BrokerDefect(EngineError):
    """The broker failed where it should not have; its log has the traceback."""


class _AsWritten:
    """A value of which only the text arrived; it prints as the value did."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 200


def shown(value: Any) -> str:
    """Return a value of the other side as text for people: printable, and short whatever it is."""
    return _short.repr(value)


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, float, str) or (type(value) is int and -(2**63) <= value < 2**64)


def pack_refusal(error: Exception) -> list[Any]:
    """Return an error in the form in which it travels."""
    if isinstance(error, ChannelRefusal):
        return ["channel", error.reply_code, error.reply_text]
    if isinstance(error, InvalidArgument):
        plain = _is_plain(error.value)
        return ["argument", error.name, error.value if plain else shown(error.value), error.allowed, plain]
    if isinstance(error, QueueFull):
        return ["full", error.queue, error.max_length, error.retry_after]
    return ["broken", f"{type(error).__name__}: {error}"]


def unpack_refusal(packed: list[Any]) -> EngineError:
    """Return the error that was packed."""
    kind, *data = packed
    if kind == "channel":
        return ChannelRefusal(*data)
    if kind == "argument":
        name, value, allowed, plain = data
        return InvalidArgument(name, value if plain else _AsWritten(value), allowed)
    if kind == "full":
        return QueueFull(*data)
    return BrokerDefect(*data)
