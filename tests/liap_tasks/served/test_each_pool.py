"""Workers of every pool as processes of their own, on a broker that is another process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from celery.exceptions import TimeLimitExceeded

from liap_tasks import DeadLetterReason
from liap_tasks.dead_letter_store import LetterFilter
from liap_tasks.testing.nodes.process import LocalProcess
from tests.liap_tasks.served.tasks import UNUSUAL
from tests.liap_tasks.served.world import DEADLINE, World, until

ASYNCIO = {"CELERY_CUSTOM_WORKER_POOL": "liap_tasks.pools.asyncio:TaskPool"}
#: options of the worker, its environment, and the loop that Celery chooses for it
POOLS: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    "prefork": (("-P", "prefork", "-c", "2"), {}, "asynloop"),
    "threads": (("-P", "threads", "-c", "4"), {}, "asynloop"),
    "solo": (("-P", "solo"), {}, "asynloop"),
    "gevent": (("-P", "gevent", "-c", "10"), {}, "synloop"),
    "asyncio": (("-P", "custom"), ASYNCIO, "asynloop"),
}


@dataclass
class Kind:
    """A pool and its running worker."""

    name: str
    process: LocalProcess


@pytest.fixture(scope="module", params=POOLS)
def kind(request: pytest.FixtureRequest, world: World) -> Iterator[Kind]:
    options, environment, _ = POOLS[request.param]
    process = world.worker(*options, **environment)
    yield Kind(request.param, process)
    if process.status == "running":
        process.kill()


def test_celery_runs_the_loop_that_fits_the_pool(kind: Kind) -> None:
    assert kind.process.wait_for_log(f"loop: {POOLS[kind.name][2]}", DEADLINE), kind.process.logs().decode()


def test_calls_are_answered_and_acknowledged(world: World, kind: Kind) -> None:
    add = world.app.tasks["served.add"]

    sent = [add.delay(number, 1) for number in range(50)]

    assert [result.get(timeout=DEADLINE) for result in sent] == list(range(1, 51))
    until(lambda: world.left() == (0, 0), "a message was not acknowledged")


def test_a_failing_call_is_retried_within_a_second_and_kept(world: World, kind: Kind) -> None:
    key = f"fails-{kind.name}"

    sent = world.app.tasks["served.fails"].delay(str(world.notes), key)

    until(lambda: len(world.noted(key)) == 2, "there was no second attempt")
    which = LetterFilter(error=key)
    until(lambda: world.app.dead_letter_store.list(which), "the dead letter was not recorded")
    (letter,) = world.app.dead_letter_store.list(which)
    assert (letter.task_id, letter.reason) == (sent.id, DeadLetterReason.RETRIES_EXHAUSTED)
    first, second = letter.attempts
    assert second["at"] - first["at"] < 1  # the policy says 50 ms
    assert world.noted(key) == ["attempt 1", "attempt 2"]


@pytest.mark.parametrize("error", UNUSUAL)
def test_an_attempt_that_ends_with_an_unusual_error_has_failed_as_any_other(
    world: World, kind: Kind, error: str
) -> None:
    key = f"{error}-{kind.name}"

    sent = world.app.tasks["served.raises"].delay(str(world.notes), key, error)

    which = LetterFilter(error=key)
    until(lambda: world.app.dead_letter_store.list(which), "the dead letter was not recorded")
    (letter,) = world.app.dead_letter_store.list(which)
    assert letter.task_id == sent.id
    lost = kind.name == "prefork" and error in ("SystemExit", "KeyboardInterrupt")
    reason = DeadLetterReason.WORKER_LOST if lost else DeadLetterReason.RETRIES_EXHAUSTED
    assert (letter.reason, letter.exception) == (reason, "WorkerLostError" if lost else error)
    assert world.noted(key) == ["attempt 1", "attempt 2"]
    until(lambda: world.left() == (0, 0), "a message was not acknowledged")
    assert world.app.tasks["served.add"].delay(1, 1).get(timeout=DEADLINE) == 2


@pytest.mark.parametrize("name", ["served.unprepared", "served.answers_no_json"])
def test_a_call_that_fails_around_its_attempt_is_kept(world: World, kind: Kind, name: str) -> None:
    key = f"{name}-{kind.name}"

    sent = world.app.tasks[name].delay(key)

    which = LetterFilter(tasks=(name,))
    until(lambda: sent.id in ids(world, which), "the dead letter was not recorded")
    assert all(
        letter.reason == DeadLetterReason.PROCESSING_FAILED for letter in world.app.dead_letter_store.list(which)
    )
    until(lambda: world.left() == (0, 0), "a message was not acknowledged")


def ids(world: World, which: LetterFilter) -> set[str | None]:
    return {letter.task_id for letter in world.app.dead_letter_store.list(which)}


def test_a_deadline_ends_a_blocking_call_where_the_pool_can(world: World, kind: Kind) -> None:
    key = f"sleeps-{kind.name}"

    sent = world.app.tasks["served.sleeps"].apply_async((str(world.notes), key), answer_within=0.5)

    if kind.name in ("prefork", "gevent"):
        assert sent.get(timeout=DEADLINE) == 0
        assert world.noted(key) == ["interrupted"]
    else:
        with pytest.raises(TimeLimitExceeded):
            sent.get(timeout=DEADLINE)
        assert kind.name == "solo" or world.noted(key) == []  # solo has one thread, which hears of it later
    until(lambda: world.left() == (0, 0), "a message was not acknowledged")


def test_the_limit_of_a_task_ends_the_call_that_it_makes_here_and_now(world: World, kind: Kind) -> None:
    sent = world.app.tasks["served.outer"].delay()

    which = LetterFilter(tasks=("served.outer", "served.inner"))
    until(lambda: sent.id in ids(world, which), "the dead letter was not recorded")
    letters = world.app.dead_letter_store.list(which)
    assert {(letter.task, letter.reason) for letter in letters} == {("served.outer", DeadLetterReason.TIMED_OUT)}


def test_calls_of_one_key_run_in_order_one_at_a_time(world: World, kind: Kind) -> None:
    keys = [f"order-{kind.name}-{letter}" for letter in "abc"]
    for number in range(6):
        for key in keys:
            world.app.tasks["served.in_order"].apply_async((str(world.notes), key, number), ordering_key=key)

    for key in keys:
        until(lambda key=key: len(world.noted(key)) == 12, "not all have run")
        assert world.noted(key) == [f"{number} {event}" for number in range(6) for event in ("begun", "done")]


def test_a_call_with_a_key_that_was_there_is_dropped(world: World, kind: Kind) -> None:
    before = world.numbers()["deduplicated"]
    key, dedup_key = f"dedup-{kind.name}", uuid4().hex

    for _ in range(3):
        world.app.tasks["served.works"].apply_async((str(world.notes), key), dedup_key=dedup_key)

    until(lambda: world.done(key) and world.left() == (0, 0), "the first has not run")
    assert world.noted(key) == ["begun", "done"]
    assert world.numbers()["deduplicated"] == before + 2


def test_a_delayed_call_is_held_by_the_broker_and_then_runs(world: World, kind: Kind) -> None:
    began = time.monotonic()

    sent = world.app.tasks["served.add"].apply_async((1, 2), countdown=0.5)

    assert world.numbers()["delayed"] == 1
    assert sent.get(timeout=DEADLINE) == 3
    assert time.monotonic() - began >= 0.5


def test_a_warm_shutdown_ends_what_runs_and_gives_back_the_rest(world: World, kind: Kind) -> None:
    keys = [f"warm-{kind.name}-{number}" for number in range(40)]
    for key in keys:
        world.app.tasks["served.works"].delay(str(world.notes), key, 0.1)
    assert kind.process.wait_for_log(f"{keys[0]}: begun", DEADLINE)

    kind.process.kill("SIGTERM")

    assert world.end_of(kind.process) == 0
    begun = [key for key in keys if world.noted(key)]
    assert 0 < len(begun) < len(keys)
    assert world.done(*begun)
    assert world.left() == (len(keys) - len(begun), 0)
    with world.app.connection_for_write() as connection:  # for the next kind of worker
        connection.default_channel.queue_purge(world.app.conf.task_default_queue)
