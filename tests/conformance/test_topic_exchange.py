"""Topic patterns: words between dots, ``*`` for exactly one word, ``#`` for zero or more (RabbitMQ docs: Tutorial 5).

The awkward part is empty words: the key ``""`` has no word at all for RabbitMQ, ``"."`` has two empty ones.
"""

from __future__ import annotations

import itertools
import random

import pytest

from tests.conformance.driver import Driver

pytestmark = pytest.mark.requires("topic")

# pattern: (keys it takes, keys it does not take)
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "a": (["a"], ["", "b", "a.a", "a.", ".a", "A"]),
    "a.b": (["a.b"], ["a", "b", "a.b.c", "b.a", "a..b", ".a.b"]),
    "*": (["a", "b", "*", "#"], ["", "a.b", ".", "a."]),
    "#": (["", "a", "a.b", "a.b.c", ".", "a..b", "..."], []),
    "": ([""], ["a", ".", "a.b"]),
    ".": (["."], ["", "a", "a.", ".a", ".."]),
    "a.": (["a."], ["a", "a.b", ".a", "a.."]),
    ".a": ([".a"], ["a", "b.a", "a.", "..a"]),
    "a..b": (["a..b"], ["a.b", "a.x.b", "a...b"]),
    "a.*": (["a.b", "a.", "a.*"], ["a", "a.b.c", "b.a", ".a", "a.."]),
    "*.a": (["b.a", ".a", "a.a"], ["a", "a.b", "b.b.a", "..a"]),
    "*.*": (["a.b", ".", "a.", ".a"], ["", "a", "a.b.c", ".."]),
    "a.*.b": (["a.x.b", "a..b", "a.b.b"], ["a.b", "a.x.y.b", "a...b"]),
    "a.#": (["a", "a.b", "a.b.c", "a.", "a..", "a..b"], ["", "b", "b.a", ".a", "aa"]),
    "#.a": (["a", "b.a", "c.b.a", ".a", "..a"], ["", "a.b", "a.", "b"]),
    "a.#.b": (["a.b", "a.x.b", "a.x.y.b", "a..b", "a...b", "a.b.b"], ["a", "b", "a.b.c", "b.a"]),
    "#.a.#": (["a", "a.b", "b.a", "b.a.b", ".a.", "a.a"], ["", "b", "b.c", "."]),
    "*.#": (["a", "a.b", "a.b.c", ".", ".a"], [""]),
    "#.*": (["a", "a.b", "a.b.c", ".", "a."], [""]),
    "#.#": (["", "a", "a.b", "."], []),
    "*.#.*": (["a.b", "a.b.c", ".", ".."], ["", "a"]),
    "#.*.#": (["a", "a.b", "a.b.c", "."], [""]),
    "a.*.#": (["a.b", "a.b.c", "a."], ["a", "b.c", ""]),
    "#.a.*.b": (["a.x.b", "z.a.x.b", "a.a.x.b"], ["a.b", "a.x.y.b", "a.x.b.c"]),
    "a*": (["a*"], ["a", "ab", "a.b"]),
    "*a": (["*a"], ["a", "ba"]),
    "a#": (["a#"], ["a", "ab", "a.b"]),
    "##": (["##"], ["", "a", "a.b"]),
    "**": (["**"], ["a", "a.b", "ab"]),
}


def matches(pattern: list[str], words: list[str]) -> bool:
    """The definition, as plainly as it can be said: compared with the broker below."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(matches(pattern[1:], words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and matches(pattern[1:], words[1:])


def words_of(text: str) -> list[str]:
    return text.split(".") if text else []


def taken_keys(driver: Driver, patterns: list[str], keys: list[str]) -> dict[str, list[str]]:
    """Bind one queue a pattern to one exchange, publish every key and return the keys each pattern took."""
    exchange = driver.exchange("x", "topic")
    queues = {pattern: driver.bound_queue(f"q{n}", exchange, pattern) for n, pattern in enumerate(patterns)}
    for key in keys:
        driver.publish([key], exchange, key)
    return {pattern: [key for (key,) in driver.empty(queue)] for pattern, queue in queues.items()}


def test_topic_exchange_routes_by_the_table(driver: Driver) -> None:
    keys = sorted({key for row in TABLE.values() for key in itertools.chain(*row)})

    taken = taken_keys(driver, list(TABLE), keys)

    assert {p: [k for k in taken[p] if k in row[0] + row[1]] for p, row in TABLE.items()} == {
        p: sorted(row[0]) for p, row in TABLE.items()
    }


def test_topic_exchange_routes_as_the_definition_says(driver: Driver) -> None:
    rng = random.Random(20)
    patterns = sorted({".".join(rng.choices(["a", "b", "*", "#", ""], k=rng.randint(1, 5))) for _ in range(60)})
    keys = sorted({".".join(rng.choices(["a", "b", ""], k=rng.randint(1, 5))) for _ in range(60)})

    taken = taken_keys(driver, patterns, keys)

    assert taken == {p: [k for k in keys if matches(words_of(p), words_of(k))] for p in patterns}


def test_a_queue_gets_one_copy_however_many_patterns_match(driver: Driver) -> None:
    exchange = driver.exchange("x", "topic")
    queue = driver.bound_queue("q", exchange, "#")
    for pattern in ("game.*", "game.#", "*.started", "game.started", "#.started"):
        queue.bind_to(exchange.name, routing_key=pattern)

    driver.publish("m", exchange, "game.started")

    assert driver.empty(queue) == ["m"]


def test_removing_one_pattern_leaves_the_others(driver: Driver) -> None:
    exchange = driver.exchange("x", "topic")
    queue, other = driver.bound_queue("q", exchange, "a.#"), driver.bound_queue("other", exchange, "a.#")
    queue.bind_to(exchange.name, routing_key="a.*")

    queue.unbind_from(exchange, routing_key="a.#")

    driver.publish_all(["one"], exchange, "a.b")
    driver.publish_all(["two"], exchange, "a.b.c")
    assert driver.empty(queue) == ["one"]
    assert driver.empty(other) == ["one", "two"]


def test_patterns_of_a_deleted_queue_are_gone(driver: Driver) -> None:
    exchange = driver.exchange("x", "topic")
    queue = driver.bound_queue("q", exchange, "a.#")

    queue.delete()
    again = driver.queue("q")

    driver.publish("m", exchange, "a.b")
    assert driver.empty(again) == []


def test_a_long_key_is_matched_in_reasonable_time(driver: Driver) -> None:
    exchange = driver.exchange("x", "topic")
    hit = driver.bound_queue("hit", exchange, "#.a.#.a.#.a.#.a.#.b")
    miss = driver.bound_queue("miss", exchange, "#.a.#.a.#.a.#.a.#.c")

    driver.publish("m", exchange, ".".join(["a"] * 20 + ["b"]))

    assert (driver.empty(hit), driver.empty(miss)) == (["m"], [])
