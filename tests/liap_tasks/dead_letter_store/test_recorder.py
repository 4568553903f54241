"""Dead letters reach the store through a real worker: recorded first, acknowledged then, and none lost."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from kombu import Exchange, Queue

from liap_tasks import DeadLetter, DeadLetterReason, EmbeddedWorker, EventExchange, LiapApp, RetryPolicy, dead_letters
from liap_tasks.configuration import DEAD_LETTER_EXCHANGE, dead_letter_queue
from liap_tasks.dead_letter_store import Letter, LetterFilter, recorder
from tests.liap_tasks.conftest import DEADLINE, Outcomes

NEVER = RetryPolicy(max_retries=0)

NewApp = Callable[..., LiapApp]


@pytest.fixture
def stored_app(new_app: NewApp, store_url: str) -> LiapApp:
    return new_app(dlq_store_url=store_url, dlq_max_retries=0)


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


def letters_in(app: LiapApp, count: int) -> list[Letter]:
    found: list[Letter] = wait_for(
        lambda: app.dead_letter_store.count() >= count and app.dead_letter_store.list(limit=1000)
    )
    return found


def fail_three_times(app: LiapApp, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let recording fail with an error at first."""
    record, failures = app.dead_letter_store.record, iter(range(3))

    def fail_at_first(letters: Any) -> int:
        if next(failures, None) is not None:
            raise error
        return record(letters)

    monkeypatch.setattr(app.dead_letter_store, "record", fail_at_first)


def test_a_task_s_dead_letter_is_recorded_with_its_story_and_acknowledged(
    stored_app: LiapApp, outcomes: Outcomes, stats: Any
) -> None:
    @stored_app.task(shared=False, name="tests.settle", retry_policy=RetryPolicy(max_retries=1, initial_delay=0.001))
    def settle(game: str, *, stake: int) -> None:
        raise ValueError("no such stake")

    began = time.time()
    with EmbeddedWorker(stored_app, pool="solo"):
        sent = settle.apply_async(("game-2",), {"stake": -1}, priority=7, metadata_correlation_id="req-456")
        assert outcomes.states(2) == ["RETRY", "FAILURE"]
        (letter,) = letters_in(stored_app, 1)
        wait_for(lambda: stats(stored_app, "dead_letters")["unacked"] == 0)
        assert stats(stored_app, "dead_letters")["ready"] == 0

    assert (letter.state, letter.reason) == ("dead", "retries_exhausted")
    assert (letter.task, letter.task_id) == ("tests.settle", sent.id)
    assert letter.queue == stored_app.conf.task_default_queue
    assert (letter.exception, letter.message) == ("ValueError", "no such stake")
    assert letter.traceback is not None
    assert "ValueError: no such stake" in letter.traceback
    assert [attempt["number"] for attempt in letter.attempts] == [1, 2]
    assert json.loads(letter.body)[:2] == [["game-2"], {"stake": -1}]
    assert letter.content_type == "application/json"
    assert letter.properties["priority"] == 7
    assert letter.correlation_id == "req-456"
    assert began <= letter.died_at <= time.time()
    assert letter.expires_at is not None
    assert letter.expires_at == pytest.approx(began + 24 * 3600, abs=DEADLINE)


def test_letters_of_the_last_tasks_are_recorded_before_the_worker_has_stopped(
    stored_app: LiapApp, outcomes: Outcomes
) -> None:
    @stored_app.task(shared=False, name="tests.last", retry_policy=NEVER)
    def last() -> None:
        raise ValueError

    with EmbeddedWorker(stored_app, pool="solo"):
        for _ in range(20):
            last.delay()
        outcomes.states(20)
    assert stored_app.dead_letter_store.count() == 20
    assert dead_letters.count(stored_app) == 0


def test_a_broker_s_dead_letter_has_the_same_identity_however_often_it_is_read(stored_app: LiapApp) -> None:
    @stored_app.task(shared=False, name="tests.never_run")
    def never_run(number: int) -> None: ...

    sent = never_run.apply_async((1,), expiration=0)
    with stored_app.connection_for_read() as connection, connection.channel() as channel:
        queue = dead_letter_queue().bind(channel)
        message = wait_for(lambda: queue.get(no_ack=False))
        reader = recorder.LetterReader(stored_app.dead_letter_policy_of, {}, time.time)
        first = reader.letter(message)
        message.requeue()
        again = reader.letter(wait_for(lambda: queue.get(no_ack=False)))
    assert first.id == again.id
    assert (first.reason, first.task, first.task_id) == ("expired", "tests.never_run", sent.id)
    assert first.queue == stored_app.conf.task_default_queue
    assert first.died_at == pytest.approx(time.time(), abs=DEADLINE)


def test_an_event_that_died_waiting_is_its_subscriber_s_letter(stored_app: LiapApp) -> None:
    events = EventExchange(stored_app, "tests.events")

    def hear(event: dict[str, Any]) -> None: ...

    for name in ("tests.announcer", "tests.scorer"):
        stored_app.task(shared=False, name=name)(hear)
        events.subscribe("game.#", name)
    events.publish("game.started", {"room": "r1"})
    with stored_app.connection_for_write() as connection, connection.channel() as channel:
        for name in ("tests.announcer", "tests.scorer"):
            Queue(name).bind(channel).get(no_ack=False).reject()

    with EmbeddedWorker(stored_app, queues=[stored_app.conf.task_default_queue]):
        letters = letters_in(stored_app, 2)
    assert {(letter.task, letter.queue) for letter in letters} == {
        ("tests.announcer", "tests.announcer"),
        ("tests.scorer", "tests.scorer"),
    }
    assert {letter.reason for letter in letters} == {"rejected"}
    assert len({letter.task_id for letter in letters}) == 2


def test_whatever_is_in_the_queue_is_recorded(stored_app: LiapApp) -> None:
    strange: list[tuple[Any, dict[str, Any]]] = [
        (b"\xff\xfe not text", {"content_type": "application/x-game", "content_encoding": "binary"}),
        (b"{not json", {"content_type": "application/json", "content_encoding": "utf-8"}),
        (b"same", {"content_type": "text/plain"}),
        (b"same", {"content_type": "text/plain"}),
        (b"", {"headers": {"liap": {"attempts": 5}, "x-death": "yes"}}),
        (b"1", {"headers": {"x-liap-dead-letter": {"reason": 5, "at": "then", "attempts": "none", "queue": None}}}),
        (b"2", {"headers": {"x-death": [{"routing-keys": 7, "time": "yesterday"}]}}),
        (b"5", {"headers": {"x-liap-dead-letter": {"reason": "manual", "at": float("nan")}}}),
        (b"6", {"headers": {"x-liap-dead-letter": {"reason": "manual", "at": 1e300}, "liap": {"replays": 2**63}}}),
        (b"3", {"headers": {"task": "t" * 300, "compression": "application/x-nothing"}}),
        (
            b"4",
            {"headers": {"nul": "\0", "x-liap-dead-letter": {"message": "\0", "traceback": "\ud800", "reason": "odd"}}},
        ),
    ]
    with stored_app.connection_for_write() as connection:
        producer = connection.Producer()
        for body, options in strange:
            producer.publish(
                body,
                **{"content_type": "text/plain", "content_encoding": "binary", **options},
                exchange=Exchange(DEAD_LETTER_EXCHANGE, type="topic"),
                routing_key="elsewhere",
                declare=[dead_letter_queue()],
            )
    with EmbeddedWorker(stored_app):
        letters = letters_in(stored_app, len(strange))
    assert sorted(letter.body for letter in letters) == sorted(body for body, _ in strange)
    assert {letter.queue for letter in letters if letter.reason == "manual"} >= {"elsewhere"}
    assert dead_letters.count(stored_app) == 0


def test_a_letter_that_the_database_refuses_does_not_hold_up_the_others(
    new_app: NewApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3", dlq_max_retries=0)
    whole = app.dead_letter_store.record

    def picky(letters: Any) -> int:
        letters = list(letters)
        if any(letter.message == "poison" for letter in letters):
            raise ValueError("refused")
        return whole(letters)

    monkeypatch.setattr(app.dead_letter_store, "record", picky)

    @app.task(shared=False, name="tests.say", retry_policy=NEVER)
    def say(text: str) -> None:
        raise ValueError(text)

    with EmbeddedWorker(app):
        for text in ("one", "poison", "two"):
            say.delay(text)
        letters = letters_in(app, 3)
    assert sorted(letter.message or "" for letter in letters) == ["", "one", "two"]
    (bare,) = (letter for letter in letters if letter.message is None)
    assert json.loads(bare.body)[0] == ["poison"]
    assert bare.detail == "could not be stored whole: ValueError"


def test_a_letter_whose_numbers_no_database_has_is_kept_without_them(
    stored_app: LiapApp, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = recorder.LetterReader.letter
    odd = {"died_at": float("nan"), "replays": 2**70, "due_at": float("nan"), "expires_at": float("nan")}

    def misread(self: Any, message: Any) -> Letter:
        letter = read(self, message)
        return replace(letter, **odd) if letter.message == "poison" else letter

    monkeypatch.setattr(recorder.LetterReader, "letter", misread)

    @stored_app.task(shared=False, name="tests.odd", retry_policy=NEVER)
    def say(text: str) -> None:
        raise ValueError(text)

    began = time.time()
    with EmbeddedWorker(stored_app):
        for text in ("one", "poison", "two"):
            say.delay(text)
        letters = letters_in(stored_app, 3)
    (bare,) = (letter for letter in letters if letter.detail.startswith("could not be stored whole"))
    assert json.loads(bare.body)[0] == ["poison"]
    assert (bare.replays, bare.due_at, bare.state) == (0, None, "dead")
    assert began <= bare.died_at <= time.time()


def test_a_database_that_can_be_read_and_not_written_is_said_once(
    new_app: NewApp,
    outcomes: Outcomes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("liap_tasks.dead_letter_store.outage.FIRST_PAUSE", 0.01)
    app = new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3", dlq_max_retries=0)
    fail_three_times(app, monkeypatch, sa.exc.OperationalError("INSERT", {}, Exception("database or disk is full")))

    @app.task(shared=False, name="tests.dies", retry_policy=NEVER)
    def dies() -> None:
        raise ValueError

    with caplog.at_level(logging.WARNING, "liap_tasks.dead_letter_store"), EmbeddedWorker(app):
        dies.delay()
        assert len(letters_in(app, 1)) == 1
        wait_for(lambda: "the dead-letter store is back" in caplog.text)
    said = [record.message for record in caplog.records if "the dead-letter store" in record.message]
    assert len(said) == 2
    assert "database or disk is full" in said[0]


def test_while_the_database_is_away_letters_wait_in_their_queue_and_it_is_said_once(
    new_app: NewApp,
    outcomes: Outcomes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("liap_tasks.dead_letter_store.outage.FIRST_PAUSE", 0.01)
    folder = tmp_path / "not there yet"
    app = new_app(dlq_store_url=f"sqlite:///{folder}/letters.sqlite3", dlq_max_retries=0)

    @app.task(shared=False, name="tests.dies", retry_policy=NEVER)
    def dies() -> None:
        raise ValueError

    tries: list[float] = []
    ping = app.dead_letter_store.ping
    monkeypatch.setattr(app.dead_letter_store, "ping", lambda: (tries.append(1), ping()))
    with caplog.at_level(logging.WARNING, "liap_tasks.dead_letter_store"), EmbeddedWorker(app):
        for _ in range(3):
            dies.delay()
        outcomes.states(3)
        wait_for(lambda: len(tries) >= 3)
        wait_for(lambda: dead_letters.count(app) == 3)
        folder.mkdir()
        assert len(letters_in(app, 3)) == 3
    said = [record.message for record in caplog.records if "store" in record.message]
    assert len(said) == 2
    assert "the dead-letter store cannot be reached (OperationalError: unable to open database file)" in said[0]
    assert "is back" in said[1]


def test_a_failure_that_nobody_thought_of_does_not_end_the_recorder(
    stored_app: LiapApp, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("liap_tasks.dead_letter_store.outage.FIRST_PAUSE", 0.01)
    fail_three_times(stored_app, monkeypatch, RuntimeError("a bug"))

    @stored_app.task(shared=False, name="tests.unlucky", retry_policy=NEVER)
    def dies() -> None:
        raise ValueError

    with caplog.at_level(logging.WARNING, "liap_tasks.dead_letter_store"), EmbeddedWorker(stored_app):
        dies.delay()
        assert len(letters_in(stored_app, 1)) == 1
        wait_for(lambda: "recording dead letters is back" in caplog.text)
    assert caplog.text.count("recording dead letters fails (RuntimeError: a bug)") == 1


def test_a_worker_whose_store_is_none_leaves_dead_letters_in_their_queue(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.stays", retry_policy=NEVER)
    def stays() -> None:
        raise DeadLetter(DeadLetterReason.MANUAL)

    with EmbeddedWorker(app):
        stays.delay()
        outcomes.states(1)
    assert dead_letters.count(app) == 1


def test_an_idle_worker_makes_no_database_file(new_app: NewApp, tmp_path: Path) -> None:
    app = new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3")
    with EmbeddedWorker(app):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_workers_record_each_letter_once(stored_app: LiapApp, outcomes: Outcomes) -> None:
    @stored_app.task(shared=False, name="tests.many", retry_policy=NEVER)
    def many(number: int) -> None:
        raise ValueError(number)

    with EmbeddedWorker(stored_app), EmbeddedWorker(stored_app):
        for number in range(100):
            many.delay(number)
        outcomes.states(100)
    letters = stored_app.dead_letter_store.list(LetterFilter(tasks=("tests.many",)), limit=1000)
    assert sorted(json.loads(letter.body)[0][0] for letter in letters) == list(range(100))
