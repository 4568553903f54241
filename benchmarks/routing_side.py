"""What it costs to find the queue of a call among many patterns."""

from __future__ import annotations

import random
from time import perf_counter

from benchmarks.measure import Figure, interleaved
from liap_tasks.routing import DirectRouter, RoutedMessage, Router, TopicRouter

__all__ = ["rows"]


def lookup_seconds(router: Router, patterns: int, lookups: int) -> float:
    """Return seconds per routed call among ``patterns`` patterns, of which the key matches one or two."""
    rng = random.Random(1)
    wildcard = isinstance(router, TopicRouter)
    for index in range(patterns):
        middle = rng.choice(["*", f"w{index % 997}", "a"]) if wildcard else "a"
        router.register_route(f"game.k{index}.{middle}", f"queue-{index % 50}")
    messages = [RoutedMessage(key=f"game.k{rng.randrange(patterns)}.a") for _ in range(lookups)]
    began = perf_counter()
    for message in messages:
        router.find(message)
    return (perf_counter() - began) / lookups


def rows(scale: float, repeat: int) -> list[Figure]:
    """Measure a routed call, its counting included."""
    patterns, lookups = int(10_000 * scale), int(20_000 * scale)
    taken = interleaved(
        repeat,
        {
            "topic": lambda: lookup_seconds(TopicRouter(), patterns, lookups),
            "exact": lambda: lookup_seconds(DirectRouter(), patterns, lookups),
        },
    )
    return [
        Figure(
            f"a call routed among {patterns:,} {kind} patterns",
            f"{seconds * 1e6:.1f} µs",
            "at most 20 µs",
            seconds <= 20e-6,
        )
        for kind, seconds in taken.items()
    ]
