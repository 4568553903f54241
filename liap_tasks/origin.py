"""Which queue a message was taken from, by the exchange and the routing key that it carries.

AMQP does not tell a consumer the queue. For this package's own queues it is the routing key; for queues of another
binding (``Queue("moves", Exchange("game", "topic"), routing_key="game.#")``) the app's queue table is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kombu import Queue

from transports.engine import TopicTrie

__all__ = ["queue_of_origin"]


def queue_of_origin(queues: Mapping[str, Queue], exchange: str, routing_key: str) -> str:
    """Return the name of the one queue of the table that gets such messages, else the routing key.

    queues: an app's ``amqp.queues``.
    """
    own = queues.get(routing_key)
    if own is not None and exchange in ("", own.exchange.name):
        return routing_key
    found = [
        name for name, queue in queues.items() if any(_matches(*way, exchange, routing_key) for way in _ways(queue))
    ]
    return found[0] if len(found) == 1 else routing_key


def _ways(queue: Queue) -> Iterable[tuple[Any, str]]:
    yield queue.exchange, queue.routing_key
    for binding in queue.bindings or ():
        yield binding.exchange, binding.routing_key


def _matches(bound: Any, pattern: str, exchange: str, routing_key: str) -> bool:
    if bound is None or not exchange or bound.name != exchange:
        return False
    if bound.type == "fanout":
        return True
    if bound.type == "topic":
        trie: TopicTrie[bool] = TopicTrie()
        trie.add(pattern or "", True)
        return bool(trie.match(routing_key))
    return bool(bound.type == "direct" and (pattern or "") == routing_key)
