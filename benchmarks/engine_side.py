"""What the broker engine does alone, in one thread, without kombu and Celery."""

from __future__ import annotations

import random
from time import perf_counter

from benchmarks.measure import Figure, interleaved, per_second
from transports.engine import Broker, Message, Sink, TopicTrie

__all__ = ["rows"]

BODY = b"x" * 200


def _broker(arguments: dict[str, int]) -> tuple[Broker, object]:
    broker = Broker()
    connection = broker.connect()
    broker.declare_queue(connection, "q", arguments=arguments)
    return broker, broker.open_channel(connection, Sink())


def cycle_rate(number: int, arguments: dict[str, int] | None = None) -> float:
    """Return put+get+ack cycles per second through the broker (default exchange, one queue)."""
    broker, channel = _broker(arguments or {})

    def work() -> None:
        for index in range(number):
            broker.publish(Message(BODY, {"priority": index % 10}, None, "", "q"))
            got = broker.get(channel, "q")
            broker.ack(channel, got.delivery_tag)

    return per_second(number, work)


def push_pop_seconds(number: int, arguments: dict[str, int]) -> float:
    """Return seconds for one push and one pop with ``number`` messages of mixed priorities in the queue."""
    broker, channel = _broker(arguments)
    messages = [Message(BODY, {"priority": index % 10}, None, "", "q") for index in range(number)]
    began = perf_counter()
    for message in messages:
        broker.publish(message)
    for _ in range(number):
        broker.get(channel, "q", no_ack=True)
    return (perf_counter() - began) / number


def growth(sizes: list[int]) -> dict[int, float]:
    """Return seconds per message to fill and empty a queue of each size."""
    return {size: push_pop_seconds(size, {}) for size in sizes}


def topic_lookup_seconds(patterns: int, lookups: int) -> tuple[float, float]:
    """Return seconds per lookup among ``patterns`` topic patterns: by the trie, and by asking each pattern."""
    rng = random.Random(1)
    trie: TopicTrie[int] = TopicTrie()
    bound = []
    for index in range(patterns):
        words = [
            rng.choice(["game", "room", "player", "*", f"w{index % 997}"]),
            f"k{index}",
            "#" if index % 9 == 0 else "x",
        ]
        bound.append(".".join(words))
        trie.add(bound[-1], index)
    keys = [f"game.k{rng.randrange(patterns)}.x" for _ in range(lookups)]
    began = perf_counter()
    for key in keys:
        trie.match(key)
    by_trie = (perf_counter() - began) / lookups
    splitted = [pattern.split(".") for pattern in bound]
    few = keys[:5]
    began = perf_counter()
    for key in few:
        words = key.split(".")
        sum(1 for pattern in splitted if all(p in ("#", "*", w) for p, w in zip(pattern, words, strict=True)))
    return by_trie, (perf_counter() - began) / len(few)


def rows(scale: float, repeat: int) -> list[Figure]:
    """Measure the engine alone, in one thread."""
    number = int(100_000 * scale)
    cycles = interleaved(
        repeat,
        {
            "fifo": lambda: cycle_rate(number),
            "priority": lambda: cycle_rate(number, {"x-max-priority": 9}),
            "push fifo": lambda: push_pop_seconds(number, {}),
            "push priority": lambda: push_pop_seconds(number, {"x-max-priority": 9}),
        },
    )
    slower = cycles["push priority"] / cycles["push fifo"]
    sizes = [int(size * scale) for size in (10_000, 100_000, 1_000_000)]
    costs = growth(sizes)
    growing = costs[sizes[-1]] / costs[sizes[0]]
    trie, scan = topic_lookup_seconds(int(10_000 * scale), int(2000 * scale))
    return [
        Figure("put+get+ack, FIFO", f"{cycles['fifo']:,.0f}/s", "150,000/s", cycles["fifo"] >= 150_000),
        Figure("put+get+ack, priority", f"{cycles['priority']:,.0f}/s", ""),
        Figure("priority push+pop against FIFO", f"{slower:.2f} x", "at most 1.5 x", slower <= 1.5),
        Figure(
            f"push+pop a message among {', '.join(f'{size:,}' for size in sizes)}",
            ", ".join(f"{costs[size] * 1e6:.1f}" for size in sizes) + " µs",
            "not superlinear",
            growing < 2,
        ),
        Figure(
            f"topic lookup among {int(10_000 * scale):,} patterns",
            f"{trie * 1e6:.1f} µs (asking each: {scan * 1e6:,.0f} µs)",
            "at most 20 µs",
            trie <= 20e-6,
        ),
    ]
