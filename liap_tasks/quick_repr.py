"""Celery's ``saferepr``, several times as quick for what calls are made of.

Each published call carries its arguments as text, for logs and monitors, and making that text costs more than encoding
the arguments does. For numbers, strings, None, lists, tuples and dicts this writes the same text as
``celery.utils.saferepr`` (celery 5.7), where it is cut off too; everything else is left to Celery's own.
"""

from __future__ import annotations

from typing import Any

from celery.utils.saferepr import saferepr
from celery.utils.text import truncate

__all__ = ["quick_repr"]

_BRACKETS: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}")}
_NUMBERS = frozenset({int, float, bool})


class _LeftToCelery(Exception):
    """A value of another type, or one that contains itself."""


class _Full(Exception):
    """The text is as long as it may be."""


def quick_repr(value: Any, max_length: int, max_levels: int) -> str:
    """Return what ``saferepr(value, max_length, max_levels)`` returns.

    max_length: characters after which the rest is left out, above 0. max_levels: how deep containers are shown, above
    0; Celery's own does everything else.
    """
    if max_length > 0 and max_levels > 0:
        if not value and type(value) in _BRACKETS:
            return "".join(_BRACKETS[type(value)])
        writer = _Writer(max_length, max_levels)
        try:
            writer.write(value, 0)
        except _LeftToCelery:
            pass
        except _Full:
            return "".join(writer.parts)
        else:
            return "".join(writer.parts)
    text: str = saferepr(value, max_length, max_levels)
    return text


class _Writer:
    """The parts of one text. left: characters that may follow; below 1 only brackets are closed."""

    __slots__ = ("left", "levels", "open", "parts")

    def __init__(self, left: int, levels: int) -> None:
        self.parts: list[str] = []
        self.left = left
        self.levels = levels
        self.open: list[Any] = []

    def add(self, text: str) -> None:
        if self.left <= 0:
            self.parts.append(", ...")
            raise _Full
        self.parts.append(text)
        self.left -= len(text)

    def write(self, value: Any, level: int) -> None:
        kind = type(value)
        if kind is str:
            # Cut to what is left before it is quoted, as Celery does: so it may grow past it by its quotes.
            shown = truncate(value, self.left) if 0 < self.left <= len(value) else value
            self.add("'" + shown.replace("'", "\\'") + "'")
        elif kind in _NUMBERS or value is None:
            shown = str(value)
            self.add(truncate(shown, self.left) if 0 < self.left <= len(shown) else shown)
        elif kind in _BRACKETS:
            self._write_container(value, kind, level)
        else:
            raise _LeftToCelery

    def _write_container(self, value: Any, kind: type, level: int) -> None:
        begin, end = _BRACKETS[kind]
        if kind is tuple and len(value) == 1:
            end = ",)"
        if level >= self.levels:
            self.add(f"{begin}...{end}")
            return
        if any(value is outer for outer in self.open):
            raise _LeftToCelery
        self.add(begin)
        self.open.append(value)
        try:
            if kind is dict:
                self._write_pairs(value, level + 1)
            else:
                self._write_items(value, level + 1)
        except _Full:
            self.parts.append(end)
            raise
        self.open.pop()
        self.parts.append(end)
        self.left -= len(end)

    def _write_items(self, items: Any, level: int) -> None:
        first = True
        for item in items:
            if not first:
                self.add(", ")
            first = False
            self.write(item, level)

    def _write_pairs(self, pairs: dict[Any, Any], level: int) -> None:
        first = True
        for key, value in pairs.items():
            if type(key) is not str:
                raise _LeftToCelery
            if not first:
                self.add(", ")
            first = False
            self.write(key, level)
            self.add(": ")
            self.write(value, level)
