"""The kinds of routers: they differ in what a pattern is."""

from __future__ import annotations

from typing import Literal

from liap_tasks.routing.matching import GlobPatterns, Patterns, RegexPatterns, TopicTrie
from liap_tasks.routing.message import Filter
from liap_tasks.routing.router import Route, Router

__all__ = ["ContentRouter", "DirectRouter", "PatternRouter", "TopicRouter"]


class TopicRouter(Router):
    """Patterns are AMQP's topics: words separated by dots; ``*`` is exactly one word, ``#`` any number of words."""

    def new_patterns(self) -> Patterns[Route]:
        return TopicTrie()


class DirectRouter(Router):
    """A pattern matches the key that is equal to it."""


class PatternRouter(Router):
    """Patterns are globs (``*`` any characters, dots too) or regular expressions, which match the whole key."""

    def __init__(
        self, name: str = "router", *, syntax: Literal["glob", "regex"] = "glob", alternate: str | None = None
    ) -> None:
        if syntax not in ("glob", "regex"):
            raise ValueError(f"syntax must be 'glob' or 'regex', not {syntax!r}")
        self.syntax = syntax
        super().__init__(name, alternate=alternate)

    def new_patterns(self) -> Patterns[Route]:
        return GlobPatterns() if self.syntax == "glob" else RegexPatterns()


class ContentRouter(Router):
    """Routes by what is in a message: a route is a name and a filter that sees payload, headers and priority."""

    def new_patterns(self) -> Patterns[Route]:
        return _Everything()

    def register_route(self, pattern: str, queue: str, filter: Filter | None = None, priority: int = 0) -> Route:
        """Send messages that ``filter`` lets pass to ``queue``; here ``pattern`` is just the route's name.

        Raises ValueError without a filter: such a route would take everything.
        """
        if filter is None:
            raise ValueError(f"route {pattern!r} needs a filter: content is all that this router looks at")
        return super().register_route(pattern, queue, filter, priority)


class _Everything:
    """A set of routes that every key matches."""

    def __init__(self) -> None:
        self._routes: dict[Route, None] = {}

    def add(self, pattern: str, target: Route) -> None:
        self._routes[target] = None

    def remove(self, pattern: str, target: Route) -> None:
        self._routes.pop(target, None)

    def match(self, key: str) -> list[Route]:
        return list(self._routes)
