"""Replays: each letter once, at its queue, with its lineage; nothing lost, whatever ends them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from kombu import Queue

from liap_tasks import DeadLetterError, EmbeddedWorker, EventExchange, LiapApp, dead_letters
from liap_tasks.dead_letter_store import Letter, LetterFilter, LetterState
from liap_tasks.dead_letter_store.operations import ReplayReport, StopRule, replay
from liap_tasks.dead_letter_store.sending import send
from liap_tasks.metadata import MessageMetadata
from tests.liap_tasks.conftest import Outcomes
from tests.liap_tasks.dead_letter_store.letters import task_letter

Stats = Callable[..., dict[str, float]]


@pytest.fixture
def app(new_app: Callable[..., LiapApp], store_url: str) -> Iterator[LiapApp]:
    """An app whose store is empty and whose task queue exists."""
    app = new_app(dlq_store_url=store_url)
    declare(app, app.conf.task_default_queue)
    yield app
    app.dead_letter_store.close()


@pytest.fixture
def local_app(new_app: Callable[..., LiapApp], tmp_path: Path) -> Iterator[LiapApp]:
    """The same on SQLite, where the database makes no difference."""
    app = new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3")
    declare(app, app.conf.task_default_queue)
    yield app
    app.dead_letter_store.close()


def declare(app: LiapApp, *names: str) -> None:
    with app.connection_for_write() as connection, connection.channel() as channel:
        for name in names:
            (app.amqp.queues.get(name) or app.missing_queue(name)).bind(channel).declare()


def waiting(app: LiapApp, queue: str | None = None) -> list[Any]:
    """Return the messages that wait in a queue."""
    with app.connection_for_read() as connection, connection.channel() as channel:
        messages: list[Any] = channel.peek(queue or app.conf.task_default_queue, 10_000)
        return messages


def record(app: LiapApp, count: int, **fields: Any) -> list[Letter]:
    """Put letters into the store, each a second younger than the one before."""
    letters = [
        task_letter(app, f"l{number}", args=(number,), died_at=1_700_000_000.0 + number, **fields)
        for number in range(count)
    ]
    app.dead_letter_store.record(letters)
    return letters


def states(app: LiapApp) -> dict[str, int]:
    return {state: number for state, number in app.dead_letter_store.stats().by_state.items() if number}


def test_a_mended_task_succeeds_when_its_letter_is_replayed(app: LiapApp, outcomes: Outcomes) -> None:
    ran: list[Any] = []

    @app.task(shared=False, bind=True, name="tests.mended")
    def mended(self: Any, number: int) -> None:
        ran.append((number, self.attempt, self.metadata.replayed_from, self.metadata.replays, self.metadata.attempts))

    (letter,) = record(app, 1, task="tests.mended", attempts=3)
    with EmbeddedWorker(app):
        report = replay(app)
        assert outcomes.next().state == "SUCCESS"

    assert ran == [(0, 1, letter.id, 1, ())]
    assert (report.matched, report.replayed, report.stopped) == (1, 1, None)
    stored = app.dead_letter_store.get(letter.id)
    assert (stored.state, stored.replay_id) == (LetterState.REPLAYED, report.replay_id)
    assert stored.replayed_at is not None


def test_a_replayed_message_bears_no_trace_of_its_death(local_app: LiapApp) -> None:
    app = local_app
    deaths = {"x-death": [{"queue": "q", "reason": "rejected", "count": 1}], "x-first-death-queue": "q"}
    (letter,) = record(app, 1, attempts=3, headers=deaths)
    replay(app)
    (message,) = waiting(app)
    assert not [name for name in message.headers if "death" in name or name == "x-liap-dead-letter"]
    assert message.headers["retries"] == 0
    assert message.headers["id"] == letter.task_id
    assert MessageMetadata.from_headers(message.headers).attempts == ()
    assert bytes(message.body) == letter.body


def test_the_same_letter_has_always_the_same_deduplication_id(local_app: LiapApp) -> None:
    app = local_app
    record(app, 2)
    replay(app)
    first, second = (message.headers["x-deduplication-id"] for message in waiting(app))
    assert first != second
    assert "l0" in first


def test_the_oldest_go_first_and_a_limit_leaves_the_rest(app: LiapApp) -> None:
    record(app, 5)
    report = replay(app, limit=3, rate=0)
    assert [message.headers["id"] for message in waiting(app)] == ["task-l0", "task-l1", "task-l2"]
    assert (report.matched, report.replayed) == (3, 3)
    assert states(app) == {"dead": 2, "replayed": 3}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (LetterFilter(ids=("l1", "l3")), {"l1", "l3"}),
        (LetterFilter(tasks=("tests.other",)), {"l3"}),
        (LetterFilter(reasons=("expired",)), {"l2"}),
        (LetterFilter(error="no room"), {"l3"}),
        (LetterFilter(correlation_id="game-7"), {"l1"}),
        (LetterFilter(died_before=1_700_000_001.5), {"l0", "l1"}),
        (LetterFilter(died_after=1_700_000_001.5), {"l2", "l3"}),
        (LetterFilter(states=("scheduled",)), {"l0"}),
        (LetterFilter(states=("replayed",)), set()),
        (LetterFilter(tasks=("tests.nobody",)), set()),
    ],
)
def test_only_what_the_filter_chooses_is_replayed(local_app: LiapApp, where: LetterFilter, expected: set[str]) -> None:
    app = local_app
    at = 1_700_000_000.0
    app.dead_letter_store.record(
        [
            task_letter(app, "l0", died_at=at, state="scheduled", due_at=at * 2),
            task_letter(app, "l1", died_at=at + 1, correlation_id="game-7"),
            task_letter(app, "l2", died_at=at + 2, reason="expired"),
            task_letter(app, "l3", died_at=at + 3, task="tests.other", message="no room"),
        ]
    )
    report = replay(app, where)
    assert {message.headers["id"].removeprefix("task-") for message in waiting(app)} == expected
    assert report.replayed == len(expected)


def test_a_dry_run_tells_all_and_changes_nothing(app: LiapApp) -> None:
    letters = record(app, 3, reason="expired")
    told = replay(app, dry_run=True, queue=app.conf.task_default_queue)
    assert (told.dry_run, told.matched, told.replayed) == (True, 3, 0)
    assert told.by_task == {"tests.task": 3}
    assert told.by_queue == {app.conf.task_default_queue: 3}
    assert told.by_reason == {"expired": 3}
    assert waiting(app) == []
    assert [app.dead_letter_store.get(letter.id).state for letter in letters] == ["dead"] * 3
    assert replay(app).replayed == 3  # it has claimed nothing


def test_the_statistics_of_a_filter_are_of_its_letters(app: LiapApp) -> None:
    record(app, 3)
    app.dead_letter_store.record([task_letter(app, "other", task="tests.other", died_at=1.0)])
    stats = app.dead_letter_store.stats(LetterFilter(tasks=("tests.task",)))
    assert (stats.total, stats.by_task, stats.oldest) == (3, {"tests.task": 3}, 1_700_000_000.0)


def test_letters_can_be_sent_to_another_queue(local_app: LiapApp) -> None:
    app = local_app
    declare(app, "tests.spare")
    record(app, 2)
    report = replay(app, queue="tests.spare")
    assert len(waiting(app, "tests.spare")) == 2
    assert waiting(app) == []
    assert report.by_queue == {"tests.spare": 2}


def test_a_queue_that_nobody_knows_is_refused_and_the_letters_stay(local_app: LiapApp) -> None:
    app = local_app
    record(app, 2)
    with pytest.raises(DeadLetterError, match=r"no queue 'tests\.tpyo'"):
        replay(app, queue="tests.tpyo")
    assert states(app) == {"dead": 2}
    assert replay(app).replayed == 2


def test_a_broker_that_no_worker_shares_is_refused(new_app: Callable[..., LiapApp], tmp_path: Path) -> None:
    app = new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3")
    record(app, 1)
    with pytest.raises(DeadLetterError, match="shared with no other process"):
        replay(app)
    assert states(app) == {"dead": 1}
    app.dead_letter_store.close()


def test_a_letter_whose_queue_nobody_knows_needs_one(local_app: LiapApp) -> None:
    app = local_app
    record(app, 1, queue="")
    with pytest.raises(DeadLetterError, match="name one to send it to"):
        replay(app)
    assert replay(app, queue=app.conf.task_default_queue).replayed == 1


def test_a_full_queue_ends_the_replay_and_loses_nothing(new_app: Callable[..., LiapApp], tmp_path: Path) -> None:
    app = new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3", max_queue_size=3)
    declare(app, app.conf.task_default_queue)
    record(app, 5)
    report = replay(app, rate=0)
    assert (report.replayed, report.matched) == (3, 5)
    assert report.stopped is not None
    assert "is full" in report.stopped
    assert "start workers" in report.stopped
    assert states(app) == {"dead": 2, "replayed": 3}
    again = replay(app, rate=0)  # they are free: it comes as far as to the full queue
    assert "is full" in str(again.stopped)
    app.dead_letter_store.close()


def test_an_event_goes_back_to_its_subscriber_alone(local_app: LiapApp, outcomes: Outcomes) -> None:
    app = local_app
    events = EventExchange(app, "replayed_events")
    got: list[tuple[str, Any]] = []

    def subscriber(name: str) -> None:
        @app.task(shared=False, name=name)
        def receive(body: Any) -> None:
            got.append((name, body))

        events.subscribe("game.*", name)

    subscriber("tests.broken")
    subscriber("tests.steady")
    with EmbeddedWorker(app):
        app.dead_letter_store.record(
            [task_letter(app, "e1", task="tests.broken", queue="tests.broken", exchange="replayed_events", args=({},))]
        )
        replay(app)
        assert outcomes.next().task == "tests.broken"
    assert got == [("tests.broken", {})]


def test_ctrl_c_between_two_letters_gives_the_rest_back(local_app: LiapApp) -> None:
    app = local_app
    record(app, 5)
    stop = threading.Event()
    ended: list[ReplayReport] = []
    thread = threading.Thread(target=lambda: ended.append(replay(app, rate=0.01, stop=stop)))
    thread.start()
    wait_until(lambda: len(waiting(app)) == 1)  # the next is due in 100 s
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert (ended[0].replayed, ended[0].stopped) == (1, "interrupted")
    assert states(app) == {"dead": 4, "replayed": 1}
    assert replay(app, rate=0).replayed == 4


def test_a_pace_slower_than_a_lease_still_sends(local_app: LiapApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app = local_app
    monkeypatch.setattr("liap_tasks.dead_letter_store.replay.LEASE", 0.05)
    record(app, 2)
    assert replay(app, rate=5).replayed == 2


def test_an_exception_in_the_middle_marks_what_was_sent_and_frees_the_rest(app: LiapApp) -> None:
    app.dead_letter_store.record(
        [
            task_letter(app, "l0", died_at=1.0),
            task_letter(app, "l1", died_at=2.0, queue="tests.missing"),
            task_letter(app, "l2", died_at=3.0),
        ]
    )
    with pytest.raises(DeadLetterError):
        replay(app, rate=0)
    assert states(app) == {"dead": 2, "replayed": 1}
    assert replay(app, LetterFilter(queues=(app.conf.task_default_queue,)), rate=0).replayed == 1


def test_letters_that_were_sent_but_could_not_be_marked_are_told(
    local_app: LiapApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = local_app
    record(app, 1)
    with sa.create_engine(app.settings.dlq_store_url, poolclass=sa.NullPool).connect() as connection:
        connection.execute(
            sa.text(
                "CREATE TRIGGER away BEFORE UPDATE ON dead_letters WHEN NEW.state = 'replayed' "
                "BEGIN SELECT RAISE(ABORT, 'the disk is gone'); END"
            )
        )
        connection.commit()
    with pytest.raises(sa.exc.IntegrityError, match="the disk is gone"):
        replay(app)
    assert len(waiting(app)) == 1
    assert any("1 letters of replay" in record.getMessage() for record in caplog.records)


def test_a_letter_that_cannot_be_sent_is_skipped_and_the_others_go(
    app: LiapApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liap_tasks.dead_letter_store.replay.BATCH", 2)
    record(app, 5)
    refuse(monkeypatch, "l1")
    report = replay(app, rate=0)
    assert (report.matched, report.replayed, report.stopped) == (5, 4, None)
    assert report.skipped == {"l1": "UnicodeEncodeError('utf-8', '\\ud800', 0, 1, 'surrogates not allowed')"}
    assert states(app) == {"dead": 1, "replayed": 4}
    assert {message.headers["id"] for message in waiting(app)} == {f"task-l{number}" for number in (0, 2, 3, 4)}
    assert [letter.id for letter in app.dead_letter_store.claim(LetterFilter(), claimant="next", lease=60)] == ["l1"]


def refuse(monkeypatch: pytest.MonkeyPatch, letter_id: str) -> None:
    """Let one letter be of what UTF-8 cannot carry."""
    really = dead_letters.publish_routed

    def publish(*args: Any, headers: dict[str, Any], **options: Any) -> None:
        if headers["id"] == f"task-{letter_id}":
            "\ud800".encode()
        really(*args, headers=headers, **options)

    monkeypatch.setattr(dead_letters, "publish_routed", publish)


def test_two_threads_that_replay_at_once_send_each_letter_once(app: LiapApp) -> None:
    record(app, 400)
    reports: list[ReplayReport] = []
    both = threading.Barrier(2)

    def run() -> None:
        both.wait(10)
        reports.append(replay(app, rate=2000))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(report.replayed for report in reports) == 400
    sent = Counter(message.headers["id"] for message in waiting(app))
    assert len(sent) == 400
    assert set(sent.values()) == {1}
    assert states(app) == {"replayed": 400}


def test_a_claim_of_a_dead_process_is_free_after_its_lease(app: LiapApp) -> None:
    record(app, 2)
    store = app.dead_letter_store
    store.claim(LetterFilter(ids=("l0",)), claimant="killed", lease=60)
    assert replay(app).replayed == 1
    store.release(["l0"], claimant="killed")
    store.claim(LetterFilter(ids=("l0",)), claimant="killed", lease=0.001)
    wait_until(lambda: replay(app).replayed == 1)
    assert states(app) == {"replayed": 2}


def test_a_crash_between_sending_and_marking_repeats_nothing_where_the_queue_has_a_window(local_app: LiapApp) -> None:
    app = local_app
    with app.connection_for_write() as connection, connection.channel() as channel:
        Queue("tests.window", queue_arguments={"x-deduplication-window": 60_000}, channel=channel).declare()
    (letter,) = record(app, 1, queue="tests.window")
    app.dead_letter_store.claim(LetterFilter(), claimant="killed", lease=0.001)
    with app.producer_or_acquire() as producer:
        send(app, producer, letter)  # and here it is killed
    wait_until(lambda: replay(app).replayed == 1)
    assert len(waiting(app, "tests.window")) == 1


def test_letters_that_die_meanwhile_are_left_for_the_next_replay(app: LiapApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liap_tasks.dead_letter_store.replay.BATCH", 1)
    record(app, 3)
    store = app.dead_letter_store

    def die_again(done: int, total: int) -> None:
        store.record([came_back(app, f"l{done - 1}")])

    report = replay(app, rate=0, progress=die_again)
    assert report.replayed == 3
    assert states(app) == {"dead": 3, "replayed": 3}


def test_the_same_error_coming_back_ends_the_replay(app: LiapApp) -> None:
    record(app, 40)
    store = app.dead_letter_store
    store.record([came_back(app, f"l{number}") for number in range(30)])
    report = replay(app, rate=0, wait=30, stop_rule=StopRule(percent=50))
    assert report.came_back == {"CardTableError": 30}
    assert report.stopped is not None
    assert "CardTableError came back for 30 of 40" in report.stopped


def test_the_replay_stops_before_the_rest_is_sent(local_app: LiapApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app = local_app
    monkeypatch.setattr("liap_tasks.dead_letter_store.replay.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("liap_tasks.dead_letter_store.replay.BATCH", 10)
    record(app, 100)
    app.dead_letter_store.record([came_back(app, f"l{number}") for number in range(100)])
    report = replay(app, rate=100)
    assert 20 <= report.replayed < 100
    assert report.stopped is not None
    assert states(app)["replayed"] == report.replayed


def test_another_error_is_no_reason_to_stop(app: LiapApp) -> None:
    record(app, 30)
    app.dead_letter_store.record([came_back(app, f"l{n}", exception="OtherError") for n in range(30)])
    report = replay(app, rate=0)
    assert (report.replayed, report.came_back, report.stopped) == (30, {}, None)


def came_back(app: LiapApp, parent: str, **fields: Any) -> Letter:
    """Return the letter that the replay of ``parent`` becomes."""
    return task_letter(app, f"{parent}-again", replayed_from=parent, replays=1, died_at=1.9e9, **fields)


def wait_until(condition: Callable[[], bool], deadline: float = 10.0) -> None:
    done = threading.Event()
    for _ in range(round(deadline / 0.01)):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it did not happen in time")
