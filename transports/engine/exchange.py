"""Exchanges: which queues and exchanges a message goes to next.

The four types of AMQP 0-9-1 (3.1.3) and RabbitMQ's headers matching. An exchange holds bindings to *destinations*
(queues or other exchanges); walking from exchange to exchange is the broker's part. A new exchange type is one class
and one row of ``EXCHANGE_TYPES``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from transports.engine.errors import InvalidArgument
from transports.engine.topic import TopicTrie

if TYPE_CHECKING:
    from transports.engine.message import Message
    from transports.engine.queue import Queue

__all__ = ["EXCHANGE_TYPES", "Binding", "Exchange"]

Headers = Mapping[str, Any]
EXCHANGE_ARGUMENTS = ("alternate-exchange",)


class Binding(NamedTuple):
    """One binding. ``arguments`` is a canonical form of the table it was made with."""

    destination: Queue | Exchange
    routing_key: str
    arguments: Hashable


def canonical(value: Any) -> Hashable:
    """Return a hashable form in which equal tables are equal and 1, 1.0 and True are not."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), canonical(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(canonical(item) for item in value)
    return (type(value).__name__, repr(value))


class Exchange:
    """What all exchange types share: properties and the set of bindings."""

    type = ""

    def __init__(
        self,
        name: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = dict(arguments or {})
        for key, value in self.arguments.items():
            if key not in EXCHANGE_ARGUMENTS:
                raise InvalidArgument(key, value, "the exchange argument alternate-exchange")
            if not isinstance(value, str):
                raise InvalidArgument(key, value, "the name of an exchange")
        self.alternate: str | None = self.arguments.get("alternate-exchange")
        self.bindings: dict[Binding, Headers] = {}

    def bind(self, destination: Queue | Exchange, routing_key: str, arguments: Headers | None) -> bool:
        """Add a binding and tell whether it is new; the same binding again changes nothing."""
        table = dict(arguments or {})
        self.check(table)
        binding = Binding(destination, routing_key, canonical(table))
        if binding in self.bindings:
            return False
        self.index(binding, table)
        self.bindings[binding] = table
        return True

    def unbind(self, destination: Queue | Exchange, routing_key: str, arguments: Headers | None) -> bool:
        """Remove a binding and tell whether there was one."""
        return self._drop(Binding(destination, routing_key, canonical(dict(arguments or {}))))

    def unbind_all(self, destination: Queue | Exchange) -> None:
        """Remove every binding to ``destination``."""
        for binding in [one for one in self.bindings if one.destination is destination]:
            self._drop(binding)

    def _drop(self, binding: Binding) -> bool:
        if self.bindings.pop(binding, None) is None:
            return False
        self.unindex(binding)
        return True

    def check(self, table: Headers) -> None:
        """Refuse binding arguments that mean nothing to this type (none do, for most)."""

    def index(self, binding: Binding, table: Headers) -> None:
        """Add a binding to the structure that :meth:`match` reads."""
        raise NotImplementedError

    def unindex(self, binding: Binding) -> None:
        """Remove a binding from the structure that :meth:`match` reads."""
        raise NotImplementedError

    def match(self, message: Message) -> Iterable[Queue | Exchange]:
        """Return the destinations of a message; one may come more than once."""
        raise NotImplementedError


class DirectExchange(Exchange):
    """To the destinations bound with exactly this routing key."""

    type = "direct"

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._by_key: dict[str, dict[Binding, None]] = {}

    def index(self, binding: Binding, table: Headers) -> None:
        self._by_key.setdefault(binding.routing_key, {})[binding] = None

    def unindex(self, binding: Binding) -> None:
        bound = self._by_key[binding.routing_key]
        del bound[binding]
        if not bound:
            del self._by_key[binding.routing_key]

    def match(self, message: Message) -> Iterable[Queue | Exchange]:
        return [binding.destination for binding in self._by_key.get(message.routing_key, ())]


class FanoutExchange(Exchange):
    """To every bound destination."""

    type = "fanout"

    def index(self, binding: Binding, table: Headers) -> None:
        """Nothing to do: the bindings themselves are read."""

    def unindex(self, binding: Binding) -> None:
        """Nothing to do: the bindings themselves are read."""

    def match(self, message: Message) -> Iterable[Queue | Exchange]:
        return [binding.destination for binding in self.bindings]


class TopicExchange(Exchange):
    """To the destinations bound with a pattern that matches the routing key."""

    type = "topic"

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._trie: TopicTrie[Binding] = TopicTrie()

    def index(self, binding: Binding, table: Headers) -> None:
        self._trie.add(binding.routing_key, binding)

    def unindex(self, binding: Binding) -> None:
        self._trie.remove(binding.routing_key, binding)

    def match(self, message: Message) -> Iterable[Queue | Exchange]:
        return [binding.destination for binding in self._trie.match(message.routing_key)]


MATCH_RULES = ("all", "any", "all-with-x", "any-with-x")


class HeadersExchange(Exchange):
    """To the destinations whose binding table fits the message's headers.

    ``x-match``: all (default), any; both skip keys that start with ``x-``, the ``-with-x`` forms do not. A None value
    in the table asks only that the header is there. Values compare with their type.
    """

    type = "headers"

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._rules: dict[Binding, tuple[bool, list[tuple[str, Any]]]] = {}

    def check(self, table: Headers) -> None:
        rule = table.get("x-match", "all")
        if rule not in MATCH_RULES:
            raise InvalidArgument("x-match", rule, "one of " + ", ".join(MATCH_RULES))

    def index(self, binding: Binding, table: Headers) -> None:
        rule = table.get("x-match", "all")
        with_x = rule.endswith("-with-x")
        wanted = [(key, v) for key, v in table.items() if key != "x-match" and (with_x or not key.startswith("x-"))]
        self._rules[binding] = (rule.startswith("all"), wanted)

    def unindex(self, binding: Binding) -> None:
        del self._rules[binding]

    def match(self, message: Message) -> Iterable[Queue | Exchange]:
        given = message.headers or {}
        found = []
        for binding, (every, wanted) in self._rules.items():
            fits = (key in given and (value is None or _same(value, given[key])) for key, value in wanted)
            if all(fits) if every else any(fits):
                found.append(binding.destination)
        return found


def _same(wanted: Any, given: Any) -> bool:
    return isinstance(wanted, bool) == isinstance(given, bool) and bool(wanted == given)


EXCHANGE_TYPES: dict[str, type[Exchange]] = {
    kind.type: kind for kind in (DirectExchange, FanoutExchange, TopicExchange, HeadersExchange)
}
