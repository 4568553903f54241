"""Dead letters that are tried again by themselves, through a real worker, and those whose time is up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kombu.exceptions import EncodeError

from liap_tasks import (
    DeadLetter,
    DeadLetterPolicy,
    DeadLetterReason,
    EmbeddedWorker,
    EventExchange,
    LiapApp,
    MessageMetadata,
    RetryPolicy,
    dead_letters,
)
from liap_tasks.dead_letter_store import DeadLetterStore, LetterFilter
from liap_tasks.dead_letter_store.sending import send
from liap_tasks.dead_letter_store.upkeep import TOMBSTONE_SECONDS, Upkeep, purge_old, replay_due
from liap_tasks.errors import DeadLetterError
from liap_tasks.testing import DeadLetters, WorkerClock
from tests.liap_tasks.conftest import DEADLINE, Clock, Outcomes
from tests.liap_tasks.dead_letter_store.conftest import letter
from tests.liap_tasks.dead_letter_store.test_recorder import NEVER, NewApp, wait_for

MINUTE = DeadLetterPolicy(max_retries=2, retry_delay=60, exponential_backoff=False)


@pytest.fixture
def liap_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Keep the letters in each database for the tests that ask for one."""
    if "store_url" not in request.fixturenames:
        return {}
    return {"dlq_store_url": request.getfixturevalue("store_url")}


def test_a_dead_letter_is_replayed_when_it_is_due_and_succeeds(
    liap_app: LiapApp,
    liap_worker: EmbeddedWorker,
    virtual_clock: WorkerClock,
    dead_letters: DeadLetters,
    store_url: str,
    outcomes: Outcomes,
) -> None:
    seen: list[tuple[int, MessageMetadata]] = []

    @liap_app.task(
        shared=False,
        bind=True,
        name="tests.second_life",
        retry_policy=RetryPolicy(max_retries=1, initial_delay=1, jitter=False),
        dead_letter_policy=MINUTE,
    )
    def second_life(self: Any, game: str) -> None:
        seen.append((self.attempt, self.metadata))
        if len(seen) <= 2:
            raise ValueError

    sent = second_life.apply_async(("game-1",), priority=7, metadata_correlation_id="req")
    virtual_clock.advance(60)
    [recorded] = dead_letters
    assert (recorded.state, len(seen)) == ("scheduled", 2)
    virtual_clock.advance(1)

    ended = [outcomes.next() for _ in range(3)]
    assert [(one.id, one.state) for one in ended] == [(sent.id, state) for state in ("RETRY", "FAILURE", "SUCCESS")]
    assert [attempt for attempt, _ in seen] == [1, 2, 1]  # a fresh count of attempts
    metadata = seen[-1][1]
    assert (metadata.replayed_from, metadata.replays, metadata.attempts) == (recorded.id, 1, ())
    assert metadata.correlation_id == "req"
    [replayed] = dead_letters.of(state="replayed")
    assert (replayed.id, replayed.replayed_as, replayed.due_at) == (recorded.id, None, None)
    assert replayed.replayed_at == pytest.approx(recorded.died_at + 60)


def test_automatic_retries_are_counted_over_all_lives_of_a_message(
    liap_app: LiapApp, liap_worker: EmbeddedWorker, virtual_clock: WorkerClock, store_url: str, outcomes: Outcomes
) -> None:
    @liap_app.task(shared=False, name="tests.hopeless", retry_policy=NEVER, dead_letter_policy=MINUTE)
    def hopeless() -> None:
        raise ValueError

    hopeless.delay()
    virtual_clock.advance(3600)
    assert outcomes.states(3) == ["FAILURE"] * 3
    assert liap_app.dead_letter_store.stats().by_state == {"replayed": 2, "dead": 1}
    first, second, third = liap_app.dead_letter_store.list()
    assert [one.replays for one in (first, second, third)] == [0, 1, 2]
    assert (first.replayed_from, second.replayed_from, third.replayed_from) == (None, first.id, second.id)
    assert (first.replayed_as, second.replayed_as, third.replayed_as) == (second.id, third.id, None)
    assert first.task_id == second.task_id == third.task_id


@pytest.mark.parametrize(
    ("error", "liap_settings", "state"),
    [
        (ValueError(), {}, "scheduled"),
        (ValueError(), {"dlq_max_retries": 0}, "dead"),
        (DeadLetter(DeadLetterReason.MANUAL), {}, "dead"),
    ],
)
def test_a_task_without_a_policy_has_that_of_the_settings(
    liap_app: LiapApp, liap_worker: EmbeddedWorker, dead_letters: DeadLetters, error: Exception, state: str
) -> None:
    @liap_app.task(shared=False, name="tests.plain", retry_policy=NEVER)
    def plain() -> None:
        raise error

    plain.delay()
    found = dead_letters.wait()
    assert found.state == state
    assert found.due_at == (found.died_at + 60 if state == "scheduled" else None)
    assert found.expires_at == pytest.approx(time.time() + 24 * 3600, abs=60)


def test_a_call_with_a_deadline_is_not_retried_by_itself(
    liap_app: LiapApp, liap_worker: EmbeddedWorker, dead_letters: DeadLetters
) -> None:
    @liap_app.task(shared=False, name="tests.asked", retry_policy=NEVER)
    def asked() -> None:
        raise ValueError

    asked.apply_async(answer_within=60)
    assert dead_letters.wait(task="tests.asked", reason="retries_exhausted").state == "dead"


def test_a_schedule_outlives_the_worker_and_can_be_cancelled(
    liap_app: LiapApp, virtual_clock: WorkerClock, dead_letters: DeadLetters
) -> None:
    ran: list[int] = []
    fine = threading.Event()

    @liap_app.task(shared=False, name="tests.later", retry_policy=NEVER, dead_letter_policy=MINUTE)
    def later(number: int) -> None:
        if not fine.is_set():
            raise ValueError
        ran.append(number)

    with EmbeddedWorker(liap_app):
        later.delay(1)
        later.delay(2)
        virtual_clock.settle()
    fine.set()
    cancelled, kept = sorted(dead_letters, key=lambda one: int(dead_letters.call_of(one).args[0]))
    assert liap_app.dead_letter_store.cancel_schedule(LetterFilter(ids=(cancelled.id,))) == 1
    virtual_clock.advance(3600)  # nobody looks after the store now
    with EmbeddedWorker(liap_app):
        virtual_clock.settle()
        virtual_clock.advance(0)
    assert ran == [2]
    assert [one.id for one in dead_letters.of(state="replayed")] == [kept.id]
    assert [one.id for one in dead_letters.of(state="dead")] == [cancelled.id]


def test_two_that_look_after_one_store_send_each_due_letter_once(
    app: LiapApp, open_store: Callable[[], DeadLetterStore], clock: Clock, stats: Any
) -> None:
    queue = app.conf.task_default_queue
    app.amqp.queues[queue].bind(app.connection_for_write().default_channel).declare()
    open_store().record([letter(f"l{n}", queue=queue, state="scheduled", due_at=clock.now - n) for n in range(150)])
    stores = [open_store(), open_store()]

    def look_after(number: int) -> None:
        while stores[number].stats().by_state.get("scheduled"):
            replay_due(app, stores[number], claimant=f"upkeep {number}")

    threads = [threading.Thread(target=look_after, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stats(app)["ready"] == 150
    assert stores[0].stats().by_state == {"replayed": 150}


def test_a_letter_is_sent_only_when_it_is_due(app: LiapApp, store: DeadLetterStore, clock: Clock, stats: Any) -> None:
    store.record([letter(queue=app.conf.task_default_queue, state="scheduled", due_at=clock.now + 10)])
    assert replay_due(app, store, claimant="me") == 0
    clock.now += 10
    assert replay_due(app, store, claimant="me") == 1
    assert stats(app)["ready"] == 1


def test_a_full_queue_puts_a_retry_off(new_app: NewApp, store: DeadLetterStore, clock: Clock) -> None:
    app = new_app(max_queue_size=1)
    queue = app.conf.task_default_queue
    store.record(
        [letter(f"l{n}", queue=queue, state="scheduled", due_at=clock.now, died_at=float(n)) for n in (1, 2, 3)]
    )
    assert replay_due(app, store, claimant="me") == 3
    assert store.stats().by_state == {"replayed": 1, "scheduled": 2}
    assert store.next_due() == clock.now + 30
    assert replay_due(app, store, claimant="me") == 0


def test_a_letter_that_cannot_be_sent_waits_for_somebody_and_the_others_go(
    app: LiapApp, store: DeadLetterStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = dead_letters.publish_routed

    def publish(producer: Any, body: Any, **options: Any) -> None:
        if body == b"odd":
            raise EncodeError("no header can carry it")
        really(producer, body, **options)

    monkeypatch.setattr(dead_letters, "publish_routed", publish)
    queue = app.conf.task_default_queue
    for number, body in enumerate((b"one", b"odd", b"two")):
        store.record([letter(f"l{number}", queue=queue, body=body, state="scheduled", due_at=clock.now)])
    assert replay_due(app, store, claimant="me") == 3
    assert store.stats().by_state == {"replayed": 2, "dead": 1}
    assert [entry.after for entry in store.audit("l1")] == [{"error": "EncodeError('no header can carry it')"}]


def test_a_letter_whose_queue_is_unknown_waits_for_somebody(
    app: LiapApp, store: DeadLetterStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store.record([letter(queue="nowhere", state="scheduled", due_at=clock.now)])
    with caplog.at_level(logging.ERROR, "liap_tasks.dead_letter_store"):
        assert replay_due(app, store, claimant="me") == 1
    assert (store.get("l1").state, store.get("l1").due_at) == ("dead", None)
    assert [entry.action for entry in store.audit("l1")] == ["gave_up"]
    assert "waits for you" in caplog.text
    assert len(store.claim(LetterFilter(), claimant="somebody", lease=1)) == 1


def test_stopping_ends_a_long_row_of_retries_after_the_letter_that_is_being_sent(
    app: LiapApp, store: DeadLetterStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = app.conf.task_default_queue
    store.record([letter(f"l{n}", queue=queue, state="scheduled", due_at=clock.now) for n in range(250)])
    upkeep = Upkeep(app, store)

    def send_and_stop(app: LiapApp, producer: Any, one: Any) -> None:
        send(app, producer, one)
        upkeep._stopping.set()

    monkeypatch.setattr("liap_tasks.dead_letter_store.upkeep.send", send_and_stop)
    upkeep.start()
    upkeep.join(DEADLINE)
    assert not upkeep.is_alive()
    assert store.stats().by_state == {"replayed": 1, "scheduled": 249}


def test_what_the_broker_has_not_taken_stays_due(
    app: LiapApp, store: DeadLetterStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = app.conf.task_default_queue
    store.record(
        [letter(f"l{n}", queue=queue, state="scheduled", due_at=clock.now, died_at=float(n)) for n in (1, 2, 3)]
    )

    def away(app: LiapApp, producer: Any, one: Any) -> None:
        if one.id != "l1":
            raise ConnectionError("the broker has gone")
        send(app, producer, one)

    monkeypatch.setattr("liap_tasks.dead_letter_store.upkeep.send", away)
    with pytest.raises(ConnectionError):
        replay_due(app, store, claimant="me")
    assert store.stats().by_state == {"replayed": 1, "scheduled": 2}
    monkeypatch.undo()
    assert replay_due(app, store, claimant="other") == 2


def test_a_replay_carries_nothing_of_its_death(app: LiapApp) -> None:
    dead = letter(
        queue=app.conf.task_default_queue,
        headers={
            "id": "task-1",
            "task": "game.settle",
            "retries": 3,
            "expires": "2020-01-01T00:00:00",
            "x-death": [{"queue": "games"}],
            "x-first-death-reason": "expired",
            "x-liap-dead-letter": {"reason": "expired"},
            "x-group-id": "r1",
            "x-group-continues": True,  # it was a retry
            "x-mine": 5,
            "liap": {
                "source": "s",
                "correlation_id": "c",
                "attempts": [{"number": 1, "at": 1.0, "error": "E", "message": ""}],
            },
        },
        properties={"priority": 7, "expiration": "1000", "correlation_id": "task-1", "user_id": "somebody"},
        replays=1,
    )
    with app.producer_or_acquire() as producer:
        send(app, producer, dead)
    with app.connection_for_read() as connection, connection.channel() as channel:
        message = app.amqp.queues[dead.queue].bind(channel).get(no_ack=True)
    assert message.body == dead.body
    assert message.headers == {
        "id": "task-1",
        "task": "game.settle",
        "retries": 0,
        "x-group-id": "r1",
        "x-mine": 5,
        "x-deduplication-id": "replay-l1",
        "liap": {"source": "s", "correlation_id": "c", "attempts": [], "replayed_from": "l1", "replays": 2},
    }
    assert (message.properties["priority"], message.properties["correlation_id"]) == (7, "task-1")
    assert not message.properties.get("expiration")
    assert message.delivery_info["exchange"] == ""


def test_a_letter_for_a_queue_that_nobody_has_is_not_sent_into_nowhere(app: LiapApp) -> None:
    with app.producer_or_acquire() as producer, pytest.raises(DeadLetterError, match="'nowhere'"):
        send(app, producer, letter(queue="nowhere"))


def test_a_replayed_event_reaches_only_the_subscriber_in_whose_queue_it_died(
    liap_app: LiapApp, virtual_clock: WorkerClock
) -> None:
    events = EventExchange(liap_app, "tests.events")
    heard: list[str] = []

    @liap_app.task(shared=False, name="tests.steady")
    def steady(event: Any) -> None:
        heard.append("steady")

    @liap_app.task(shared=False, name="tests.shaky", retry_policy=NEVER, dead_letter_policy=MINUTE)
    def shaky(event: Any) -> None:
        heard.append("shaky")
        if heard.count("shaky") == 1:
            raise ValueError

    for name in ("tests.steady", "tests.shaky"):
        events.subscribe("game.#", name)
    with EmbeddedWorker(liap_app):
        events.publish("game.started", {"room": "r1"})
        virtual_clock.advance(60)
    assert sorted(heard) == ["shaky", "shaky", "steady"]


def test_old_letters_are_purged_and_their_tombstones_forgotten(store: DeadLetterStore, clock: Clock) -> None:
    store.record([letter(f"l{n}", expires_at=clock.now + n) for n in range(3)])
    purge_old(store, clock.now + 1)
    assert store.stats().by_state == {"purged": 2, "dead": 1}
    purge_old(store, clock.now + TOMBSTONE_SECONDS + 1.5)
    assert store.stats().by_state == {"purged": 1}


def test_a_worker_purges_what_is_too_old(liap_app: LiapApp) -> None:
    store = liap_app.dead_letter_store
    store.record([letter("old", expires_at=time.time() - 1), letter("young")])
    with EmbeddedWorker(liap_app):
        wait_for(lambda: store.get("old").state == "purged")
    assert store.get("young").state == "dead"
