"""The exchanges, queues and bindings that hold: what a journal must know to begin a new file.

Every definition is a list that can be packed; its first word says what it is::

    exchange         vhost, name, type, auto_delete, internal, arguments
    queue            vhost, name, number, auto_delete, fields of its arguments that are not the default
    binding          vhost, source, to_queue, destination, routing key, arguments
    delete exchange  vhost, name
    delete queue     vhost, name, number
    unbind           as binding

Writing and reading apply the same lists to the same table, so that a snapshot of what was written and what is read back
cannot differ. What is read after damage may have holes: where something is defined that is there already, its end was
lost, and what is bound to nothing is for the reader to take out (:meth:`Definitions.drop_dangling`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, TypeVar

from transports.engine import QueueArguments
from transports.engine.exchange import EXCHANGE_TYPES, canonical
from transports.engine.topology import PREDECLARED

__all__ = ["Definition", "Definitions", "check_definition"]

Definition = list[Any]
End = TypeVar("End")
Key = tuple[str, str, bool, str, str, Hashable]  # vhost, source, to_queue, destination, routing key, arguments


BINDING = (str, str, int, str, str, dict)
# The types behind the first word; a bool is an int.
SHAPES: dict[str, tuple[type, ...]] = {
    "exchange": (str, str, str, int, int, dict),
    "queue": (str, str, int, int, dict),
    "binding": BINDING,
    "delete exchange": (str, str),
    "delete queue": (str, str, int),
    "unbind": BINDING,
}


def check_definition(definition: Any) -> None:
    """Raise a ValueError, TypeError or EngineError for what is no definition, or one that no broker can take back."""
    what, *rest = definition
    shape = SHAPES.get(what)
    if shape is None or len(rest) != len(shape) or not all(map(isinstance, rest, shape)):
        raise ValueError(f"no definition: {definition!r}")
    if what == "exchange":
        kind, arguments = rest[2], rest[-1]
        if kind not in EXCHANGE_TYPES:
            raise ValueError(f"an exchange of the unknown type {kind!r}")
        EXCHANGE_TYPES[kind](rest[1], arguments=arguments)
    elif what == "queue":
        QueueArguments(**rest[-1])


class Definitions:
    """What is defined now. queues: by number."""

    def __init__(self) -> None:
        self.queues: dict[int, Definition] = {}
        self._numbers: dict[tuple[str, str], int] = {}  # of queues, by virtual host and name
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

    def apply(self, definition: Definition) -> int | None:
        """Take over one definition; return the number of the queue that is gone by it, if one is."""
        what = definition[0]
        if what == "exchange":
            vhost, name = definition[1:3]
            if (vhost, name) in self._exchanges:
                self._delete_exchange(vhost, name)
            self._exchanges[vhost, name] = definition
        elif what == "queue":
            vhost, name, number = definition[1:4]
            older = self._numbers.get((vhost, name))
            if older is not None:
                self._delete_queue(vhost, name, older)
            self._numbers[vhost, name] = number
            self.queues[number] = definition
            return older
        elif what == "binding":
            self._bind(definition)
        elif what == "unbind":
            self._unbind(_key(definition))
        elif what == "delete exchange":
            self._delete_exchange(*definition[1:])
        elif what == "delete queue":
            self._delete_queue(*definition[1:])
            return int(definition[3])
        else:
            raise ValueError(f"unknown definition {what!r}")
        return None

    def _delete_exchange(self, vhost: str, name: str) -> None:
        self._exchanges.pop((vhost, name), None)
        self._unbind_all(self._from.get((vhost, name)))
        self._unbind_all(self._to.get((vhost, False, name)))

    def _delete_queue(self, vhost: str, name: str, number: int) -> None:
        self.queues.pop(number, None)
        if self._numbers.get((vhost, name), number) == number:
            self._numbers.pop((vhost, name), None)
            self._unbind_all(self._to.get((vhost, True, name)))

    def drop_dangling(self) -> list[Definition]:
        """Forget the bindings of which one end is not defined, and return them."""
        dangling = [(key, one) for key, one in self._bindings.items() if not self._has_ends(key)]
        for key, _ in dangling:
            self._unbind(key)
        return [one for _, one in dangling]

    def _has_ends(self, key: Key) -> bool:
        vhost, source, to_queue, destination, _, _ = key
        there = (vhost, destination) in self._numbers if to_queue else self._has_exchange(vhost, destination)
        return there and self._has_exchange(vhost, source)

    def _has_exchange(self, vhost: str, name: str) -> bool:
        return name in PREDECLARED or (vhost, name) in self._exchanges

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
