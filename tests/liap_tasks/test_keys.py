"""Ordering and deduplication keys: from a call to the broker, through real workers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject
from kombu import Queue

from liap_tasks import (
    DeadLetter,
    DeliveryOptions,
    EmbeddedWorker,
    EventExchange,
    InvalidArgumentError,
    LiapApp,
    RetryPolicy,
    dead_letters,
)
from liap_tasks.keys import key_of
from tests.liap_tasks.conftest import DEADLINE, Outcomes

QUICK = RetryPolicy(max_retries=2, initial_delay=0.02, jitter=False)


def place(room: str, card: int = 0) -> None:
    """Have arguments."""


@pytest.mark.parametrize(
    ("key", "args", "kwargs", "found"),
    [
        ("room", ("r1",), {}, "r1"),
        ("room", (), {"room": "r1"}, "r1"),
        ("card", ("r1",), {}, "0"),
        (lambda args, kwargs: f"{args[0]}/{kwargs['card']}", ("r1",), {"card": 3}, "r1/3"),
        (lambda args, kwargs: None, ("r1",), {}, None),
        (None, ("r1",), {}, None),
    ],
)
def test_a_key_is_an_argument_or_a_function_of_them(key: Any, args: Any, kwargs: Any, found: str | None) -> None:
    assert key_of(place, key, args, kwargs) == found


def test_a_key_that_is_no_argument_or_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="'player' is no argument of place; it has room, card"):
        key_of(place, "player", ("r1",), {})
    with pytest.raises(TypeError, match="must be a str, an int or a UUID"):
        key_of(place, "room", (["r1"],), {})


@pytest.fixture
def rooms(app: LiapApp) -> tuple[Any, list[str], threading.Event]:
    """A task ordered by room that notes what it does; the call "gate" waits for the event."""
    seen: list[str] = []
    gate = threading.Event()
    failed: set[str] = set()

    @app.task(name="tests.keys.step", shared=False, ordering_key="room", retry_policy=QUICK)
    def step(room: str, what: str) -> None:
        seen.append(f"{room} {what}")
        if what == "gate":
            gate.wait(DEADLINE)
        if what == "twice" and what not in failed:
            failed.add(what)
            raise OSError("again")
        if what == "never":
            raise OSError("never")

    return step, seen, gate


def test_calls_of_one_key_run_one_at_a_time_and_others_flow_around(
    app: LiapApp, rooms: Any, outcomes: Outcomes
) -> None:
    step, seen, gate = rooms
    with EmbeddedWorker(app, concurrency=4):
        for room, what in [("a", "gate"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "2")]:
            step.delay(room, what)
        assert outcomes.states(2) == ["SUCCESS"] * 2  # those of b
        assert sorted(seen) == ["a gate", "b 1", "b 2"]
        gate.set()
        outcomes.states(3)

    assert [one for one in seen if one.startswith("a")] == ["a gate", "a 2", "a 3"]
    assert [one for one in seen if one.startswith("b")] == ["b 1", "b 2"]


def test_nothing_of_its_key_overtakes_a_call_that_waits_for_its_retry(
    app: LiapApp, rooms: Any, outcomes: Outcomes
) -> None:
    step, seen, _ = rooms
    for what in ("twice", "after"):
        step.delay("a", what)

    with EmbeddedWorker(app, concurrency=4):
        assert outcomes.states(3) == ["RETRY", "SUCCESS", "SUCCESS"]

    assert seen == ["a twice", "a twice", "a after"]


def test_a_dead_letter_lets_its_key_go_on(app: LiapApp, rooms: Any, outcomes: Outcomes) -> None:
    step, seen, _ = rooms
    for what in ("never", "after"):
        step.delay("a", what)

    with EmbeddedWorker(app, concurrency=4):
        assert outcomes.states(4) == ["RETRY", "RETRY", "FAILURE", "SUCCESS"]

    assert seen == ["a never"] * 3 + ["a after"]
    assert [letter.args for letter in dead_letters.peek(app)] == [("a", "never")]


@pytest.mark.parametrize(
    ("how", "state"),
    [
        ("ignored", "IGNORED"),
        ("rejected", "REJECTED"),
        ("a dead letter at once", "FAILURE"),
        ("too slow", "FAILURE"),
        ("its arguments do not fit", "FAILURE"),
    ],
)
def test_however_a_call_ends_its_key_goes_on(app: LiapApp, outcomes: Outcomes, how: str, state: str) -> None:
    seen: list[str] = []

    @app.task(name="tests.keys.ends", shared=False, ordering_key=lambda args, kwargs: "a", timeout=0.3)
    def ends(what: str) -> None:
        seen.append(what)
        if what == "ignored":
            raise Ignore
        if what == "rejected":
            raise Reject("no", requeue=False)
        if what == "a dead letter at once":
            raise DeadLetter
        while what == "too slow":
            pass

    ends.retry_policy = RetryPolicy(max_retries=0)
    fits = how != "its arguments do not fit"
    app.send_task("tests.keys.ends", (how,) if fits else (how, "too many"), ordering_key="a")
    ends.delay("after")
    with EmbeddedWorker(app, concurrency=4):
        assert outcomes.states(2) == [state, "SUCCESS"]
    assert seen == ([how, "after"] if fits else ["after"])


def test_a_call_that_is_revoked_or_expires_in_the_queue_lets_its_key_go_on(
    app: LiapApp, rooms: Any, outcomes: Outcomes
) -> None:
    step, seen, gate = rooms
    with EmbeddedWorker(app, concurrency=4) as worker:
        step.delay("a", "gate")
        revoked = step.delay("a", "revoked")
        step.apply_async(("a", "expired"), delivery=DeliveryOptions(ttl=0))
        step.delay("a", "after")
        app.control.revoke(revoked.id, destination=[worker.hostname], reply=True, timeout=DEADLINE)
        gate.set()
        assert outcomes.states(2) == ["SUCCESS", "SUCCESS"]

    assert seen == ["a gate", "a after"]
    assert [letter.args for letter in dead_letters.peek(app)] == [("a", "expired")]


def test_many_keys_keep_their_order_while_a_third_of_the_calls_is_retried(app: LiapApp, outcomes: Outcomes) -> None:
    rooms, calls, chance = [f"r{number}" for number in range(8)], 15, Random(7)
    flaky = {(room, number) for room in rooms for number in range(calls) if chance.random() < 1 / 3}
    hopeless = {(room, 7) for room in rooms}
    runs: dict[str, list[tuple[int, int]]] = {room: [] for room in rooms}
    running: Counter[str] = Counter()
    overlaps: list[str] = []

    @app.task(name="tests.keys.load", shared=False, bind=True, ordering_key="room", retry_policy=QUICK)
    def load(self: Any, room: str, number: int) -> None:
        running[room] += 1
        if running[room] > 1:
            overlaps.append(room)
        try:
            runs[room].append((number, self.attempt))
            if (room, number) in hopeless or ((room, number) in flaky and self.attempt == 1):
                raise OSError("again")
        finally:
            running[room] -= 1

    for number in range(calls):
        for room in rooms:
            load.delay(room, number)
    with EmbeddedWorker(app, concurrency=8):
        ended = 0
        while ended < len(rooms) * calls:
            ended += outcomes.next().state != "RETRY"

    for room in rooms:
        assert runs[room] == [
            (number, attempt)
            for number in range(calls)
            for attempt in range(1, 1 + (3 if (room, number) in hopeless else 1 + ((room, number) in flaky)))
        ]
    assert overlaps == []
    assert dead_letters.count(app) == len(rooms)


def test_a_dead_letter_no_longer_continues_anything(app: LiapApp, rooms: Any, outcomes: Outcomes) -> None:
    step, _, _ = rooms
    step.delay("a", "never")
    with EmbeddedWorker(app, concurrency=1):
        outcomes.states(3)

    with app.connection_for_read() as connection:
        letter = dead_letters.dead_letter_queue().bind(connection.default_channel).get(no_ack=True)
    assert letter is not None
    assert letter.headers["x-group-id"] == "a"
    assert "x-group-continues" not in letter.headers


def test_a_call_s_own_key_wins(app: LiapApp, rooms: Any) -> None:
    step, _, _ = rooms
    step.apply_async(("a", "1"), ordering_key="other")
    step.apply_async(("a", "1"), delivery=DeliveryOptions(ordering_key="delivered"))
    app.send_task("tests.keys.elsewhere", ordering_key="by name")

    assert [headers["x-group-id"] for headers in waiting(app)] == ["other", "delivered", "by name"]


def waiting(app: LiapApp) -> list[dict[str, Any]]:
    """Take what waits in the app's queue and return the headers."""
    with app.connection_for_read() as connection:
        queue = app.amqp.default_queue.bind(connection.default_channel)
        queue.declare()
        taken = []
        while (message := queue.get(no_ack=True)) is not None:
            taken.append(message.headers)
    return taken


def test_a_second_call_with_the_same_dedup_key_is_dropped(app: LiapApp, stats: Callable[..., Any]) -> None:
    @app.task(name="tests.keys.report", shared=False, dedup_key="day")
    def report(day: str) -> None: ...

    @app.task(name="tests.keys.other", shared=False, dedup_key=lambda args, kwargs: args[0])
    def other(day: str) -> None: ...

    for day in ("monday", "monday", "tuesday"):
        report.delay(day)
    other.delay("monday")
    report.apply_async(("monday",), dedup_key="monday again")

    assert [headers["x-deduplication-id"] for headers in waiting(app)] == [
        "tests.keys.report:monday",
        "tests.keys.report:tuesday",
        "tests.keys.other:monday",
        "tests.keys.report:monday again",
    ]


def test_a_retry_is_no_duplicate_of_its_first_attempt(app: LiapApp, outcomes: Outcomes) -> None:
    attempts: list[int] = []

    @app.task(name="tests.keys.flaky", shared=False, bind=True, dedup_key="day", retry_policy=QUICK)
    def flaky(self: Any, day: str) -> None:
        attempts.append(self.attempt)
        if self.attempt < 3:
            raise OSError("again")

    flaky.delay("monday")
    with EmbeddedWorker(app, concurrency=1):
        assert outcomes.states(3) == ["RETRY", "RETRY", "SUCCESS"]

    assert attempts == [1, 2, 3]


@pytest.mark.parametrize("url", ["amqp://guest:guest@127.0.0.1:1//", "redis://127.0.0.1:1/0"])
@pytest.mark.parametrize("option", ["ordering_key", "dedup_key"])
def test_a_broker_that_would_ignore_a_key_refuses_the_call(
    new_app: Callable[..., LiapApp], url: str, option: str
) -> None:
    if url.startswith("redis"):
        pytest.importorskip("redis")
    app = new_app(message_queue_url=url)

    @app.task(name="tests.keys.elsewhere", shared=False)
    def elsewhere() -> None: ...

    with pytest.raises(InvalidArgumentError, match=rf"{option} of task tests.keys.elsewhere.*liap-memory://"):
        elsewhere.apply_async(**{option: "k"})


def test_a_queue_that_would_ignore_a_key_refuses_the_call(app: LiapApp, rooms: Any) -> None:
    step, _, _ = rooms
    app.amqp.queues.add(Queue("tests.plain"))

    with pytest.raises(InvalidArgumentError, match=r"queue 'tests\.plain' is not"):
        step.apply_async(("a", "1"), queue="tests.plain")


def test_eager_calls_take_keys_without_a_broker(app: LiapApp, rooms: Any) -> None:
    step, seen, _ = rooms
    app.conf.task_always_eager = True

    step.apply_async(("a", "1"), dedup_key="k")
    step.apply_async(("a", "1"), dedup_key="k")

    assert seen == ["a 1", "a 1"]


def test_events_of_one_key_reach_a_subscriber_in_order_across_retries(app: LiapApp, outcomes: Outcomes) -> None:
    seen: list[int] = []
    events = EventExchange(app, "tests.keys")

    @app.task(shared=False, bind=True, name="tests.keys.hears", retry_policy=QUICK)
    def hears(self: Any, event: dict[str, int]) -> None:
        if event["number"] == 1 and self.attempt == 1:
            raise OSError("again")
        seen.append(event["number"])

    events.subscribe("room.#", "tests.keys.hears")
    for number in (1, 2, 3):
        events.publish("room.moved", {"number": number}, ordering_key="a")

    with EmbeddedWorker(app, concurrency=4):
        assert outcomes.states(4) == ["RETRY", "SUCCESS", "SUCCESS", "SUCCESS"]

    assert seen == [1, 2, 3]
