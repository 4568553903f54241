"""The exchanges, queues and bindings that hold: what a journal must know to begin a new file.

Every definition is a list that can be packed; its first word says what it is::

    exchange         vhost, name, type, auto_delete, internal, arguments
    queue            vhost, name, number, auto_delete, fields of its arguments that are not the default
    binding          vhost, source, to_queue, destination, routing key, arguments
    delete exchange  vhost, name
    delete queue     vhost, name, number
    unbind           as binding

Writing and reading apply the same lists to the same table, so that a snapshot of what was written and what is read back
cannot differ.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, TypeVar

from transports.engine.exchange import canonical

__all__ = ["Definition", "Definitions"]

Definition = list[Any]
End = TypeVar("End")
Key = tuple[str, str, bool, str, str, Hashable]  # vhost, source, to_queue, destination, routing key, arguments


class Definitions:
    """What is defined now. queues: by number."""

    def __init__(self) -> None:
        self.queues: dict[int, Definition] = {}
        self._exchanges: dict[tuple[str, str], Definition] = {}
        self._bindings: dict[Key, Definition] = {}
        self._from: dict[tuple[str, str], dict[Key, None]] = {}
        self._to: dict[tuple[str, bool, str], dict[Key, None]] = {}

    def __iter__(self) -> Iterator[Definition]:
        """Iterate over all definitions in an order in which they can be applied."""
        yield from self._exchanges.values()
        yield from self.queues.values()
        yield from self._bindings.values()

    @property
    def exchanges(self) -> Iterator[Definition]:
        """The exchanges."""
        return iter(self._exchanges.values())

    @property
    def bindings(self) -> Iterator[Definition]:
        """The bindings."""
        return iter(self._bindings.values())

    def apply(self, definition: Definition) -> None:
        """Take over one definition."""
        what = definition[0]
        if what == "exchange":
            self._exchanges[definition[1], definition[2]] = definition
        elif what == "queue":
            self.queues[definition[3]] = definition
        elif what == "binding":
            self._bind(definition)
        elif what == "unbind":
            self._unbind(_key(definition))
        elif what == "delete exchange":
            vhost, name = definition[1:]
            self._exchanges.pop((vhost, name), None)
            self._unbind_all(self._from.get((vhost, name)))
            self._unbind_all(self._to.get((vhost, False, name)))
        elif what == "delete queue":
            vhost, name, number = definition[1:]
            self.queues.pop(number, None)
            self._unbind_all(self._to.get((vhost, True, name)))
        else:
            raise ValueError(f"unknown definition {what!r}")

    def _bind(self, definition: Definition) -> None:
        key = _key(definition)
        self._bindings[key] = definition
        self._from.setdefault(key[:2], {})[key] = None
        self._to.setdefault((key[0], *key[2:4]), {})[key] = None

    def _unbind_all(self, keys: dict[Key, None] | None) -> None:
        for key in list(keys or ()):
            self._unbind(key)

    def _unbind(self, key: Key) -> None:
        if self._bindings.pop(key, None) is None:
            return
        _forget(self._from, key[:2], key)
        _forget(self._to, (key[0], *key[2:4]), key)


def _forget(index: dict[End, dict[Key, None]], end: End, key: Key) -> None:
    keys = index[end]
    del keys[key]
    if not keys:
        del index[end]


def _key(definition: Definition) -> Key:
    _, vhost, source, to_queue, destination, routing_key, arguments = definition
    return (vhost, source, to_queue, destination, routing_key, canonical(arguments))
