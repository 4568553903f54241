"""Sets of patterns that can be asked which of them match a key: exact, topic, glob, regular expression.

Exact and topic lookups do not grow with the number of patterns (a dictionary, a trie); globs and regular expressions
are tried one by one, for neither can be looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Generic, Protocol, TypeVar

from transports.engine import TopicTrie

__all__ = ["ExactPatterns", "GlobPatterns", "Patterns", "RegexPatterns", "TopicTrie"]

Target = TypeVar("Target")


class Patterns(Protocol[Target]):
    """A set of (pattern, target) pairs; targets are hashable. ``TopicTrie`` is one, too."""

    def add(self, pattern: str, target: Target) -> None:
        """Add a pair; raises ValueError for a pattern that is none."""

    def remove(self, pattern: str, target: Target) -> None:
        """Remove a pair if it is there."""

    def match(self, key: str) -> Iterable[Target]:
        """Return the targets whose pattern matches the key, each once."""


class ExactPatterns(Generic[Target]):
    """Patterns that match just themselves."""

    def __init__(self) -> None:
        self._targets: dict[str, dict[Target, None]] = {}

    def add(self, pattern: str, target: Target) -> None:
        self._targets.setdefault(pattern, {})[target] = None

    def remove(self, pattern: str, target: Target) -> None:
        targets = self._targets.get(pattern, {})
        targets.pop(target, None)
        if not targets:
            self._targets.pop(pattern, None)

    def match(self, key: str) -> Iterable[Target]:
        return self._targets.get(key, ())


class RegexPatterns(Generic[Target]):
    """Regular expressions that must match the whole key."""

    def __init__(self) -> None:
        self._compiled: dict[str, tuple[re.Pattern[str], dict[Target, None]]] = {}

    def add(self, pattern: str, target: Target) -> None:
        known = self._compiled.get(pattern)
        if known is None:
            try:
                known = self._compiled[pattern] = (re.compile(self._expression(pattern)), {})
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        known[1][target] = None

    def _expression(self, pattern: str) -> str:
        return pattern

    def remove(self, pattern: str, target: Target) -> None:
        known = self._compiled.get(pattern)
        if known is not None:
            known[1].pop(target, None)
            if not known[1]:
                del self._compiled[pattern]

    def match(self, key: str) -> Iterable[Target]:
        found: dict[Target, None] = {}
        for expression, targets in list(self._compiled.values()):
            if expression.fullmatch(key):
                found.update(targets)
        return found


class GlobPatterns(RegexPatterns[Target]):
    """Shell patterns: ``*`` any characters, dots too, ``?`` one, ``[ab]`` one of these; upper and lower case differ."""

    def _expression(self, pattern: str) -> str:
        return translate(pattern)
