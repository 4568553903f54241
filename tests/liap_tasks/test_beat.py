"""Periodic tasks: by a beat beside an embedded worker, and by a real ``celery beat`` process over RabbitMQ."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.beat import BeatLazyFunc
from celery.schedules import crontab, schedule

from liap_tasks import EmbeddedWorker, LiapApp, MessagePriority, Unique
from liap_tasks.beat import MemoryScheduler, turn_of
from liap_tasks.testing import DeadLetters, WorkerClock, isolated

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
Ran = list[tuple[Any, float]]


@pytest.fixture
def ran() -> Ran:
    return []


@pytest.fixture
def tidy(liap_app: LiapApp, virtual_clock: WorkerClock, ran: Ran) -> Any:
    """A task that notes its argument and the second since a full hour at which it ran."""
    virtual_clock.advance_to(_next_hour(virtual_clock))
    began = virtual_clock.now()

    @liap_app.task(name="tests.tidy", shared=False)
    def tidy(what: str) -> None:
        ran.append((what, round(virtual_clock.now() - began, 3)))

    return tidy


def _next_hour(clock: WorkerClock) -> datetime:
    now = datetime.fromtimestamp(clock.time(), UTC)
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


def test_entries_run_when_they_are_due(liap_app: LiapApp, tidy: Any, virtual_clock: WorkerClock, ran: Ran) -> None:
    liap_app.conf.beat_schedule = {
        "often": {"task": "tests.tidy", "schedule": 40, "args": ("often",)},
        "at five past": {"task": "tests.tidy", "schedule": crontab(minute=5), "args": ("at five past",)},
        "lazily": {"task": "tests.tidy", "schedule": 3000, "kwargs": {"what": BeatLazyFunc(lambda: len(ran))}},
    }
    with EmbeddedWorker(liap_app, beat=True):
        virtual_clock.advance(3599)
    virtual_clock.advance(3600)  # nobody sends any more
    assert [at for what, at in ran if what == "often"] == pytest.approx([40 * n for n in range(1, 90)], abs=0.01)
    assert [at for what, at in ran if what == "at five past"] == [300]
    assert [(what, at) for what, at in ran if isinstance(what, int)] == [(75, 3000)]


def test_an_entry_s_options_are_those_of_a_call(
    liap_app: LiapApp, tidy: Any, virtual_clock: WorkerClock, ran: Ran, dead_letters: DeadLetters
) -> None:
    liap_app.conf.beat_schedule = {
        "due soon": {
            "task": "tests.tidy",
            "schedule": 60,
            "args": ("due soon",),
            "options": {"priority": MessagePriority.HIGH, "answer_within": 45, "ordering_key": "room-1"},
        }
    }
    with EmbeddedWorker(liap_app, queues=["elsewhere"], beat=True):
        virtual_clock.advance(70)
        with liap_app.connection_for_read() as connection, connection.channel() as channel:
            [message] = channel.peek(liap_app.conf.task_default_queue)
        virtual_clock.advance(45)
    assert message.properties["priority"] == MessagePriority.HIGH
    assert message.headers["x-group-id"] == "room-1"
    [letter] = dead_letters
    assert (letter.reason, letter.task) == ("expired", "tests.tidy")
    assert ran == []


def test_a_unique_task_is_not_sent_again_before_it_is_done(
    liap_app: LiapApp, virtual_clock: WorkerClock, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[float] = []

    @liap_app.task(name="tests.rare", shared=False, unique=Unique())
    def rare() -> None:
        ran.append(virtual_clock.now())

    liap_app.conf.beat_schedule = {"rare": {"task": "tests.rare", "schedule": 10, "options": {"queue": "rare"}}}
    with EmbeddedWorker(liap_app, queues=["liap_tasks"], beat=True), caplog.at_level(logging.INFO):
        virtual_clock.advance(30)
        with EmbeddedWorker(liap_app, queues=["rare"]):
            virtual_clock.advance(20)
    assert ran == [30, 40, 50]
    assert caplog.text.count("is not sent this time") == 2
    assert "ERROR" not in {record.levelname for record in caplog.records}


@pytest.mark.parametrize("by", ["the entry", "the task"])
def test_two_beats_send_each_turn_of_an_entry_with_a_key_once(
    liap_app: LiapApp, tidy: Any, virtual_clock: WorkerClock, ran: Ran, by: str
) -> None:
    entry: dict[str, Any] = {"task": "tests.tidy", "schedule": 30, "args": ("once",)}
    if by == "the entry":
        entry["options"] = {"dedup_key": "tidy"}
    else:
        tidy.dedup_key = "what"
    other = {"task": "tests.tidy", "schedule": 60, "args": ("twice",)}
    liap_app.conf.beat_schedule = {"once": entry, **({"twice": other} if by == "the entry" else {})}
    with EmbeddedWorker(liap_app, beat=True):
        virtual_clock.advance(10)
        with EmbeddedWorker(liap_app, beat=True):
            virtual_clock.advance(299)
    assert len([at for what, at in ran if what == "once"]) == 10
    assert len([at for what, at in ran if what == "twice"]) == (9 if by == "the entry" else 0)


def test_a_turn_is_an_interval_or_a_minute() -> None:
    moment = datetime(1970, 1, 1, 0, 1, 10, tzinfo=UTC)
    assert turn_of(schedule(timedelta(seconds=30)), moment) == 2
    assert turn_of(crontab(minute="*/5"), moment) == 1


def test_a_key_that_is_forgotten_before_the_turn_is_over_is_warned_of(
    liap_app: LiapApp, tidy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"dedup_key": "x"}
    liap_app.conf.beat_schedule = {
        "hourly": {"task": "tests.tidy", "schedule": 3600, "options": options},
        "at noon": {"task": "tests.tidy", "schedule": crontab(hour=12, minute=0), "options": options},
    }
    with EmbeddedWorker(liap_app, beat=True), caplog.at_level(logging.WARNING, "liap_tasks.beat"):
        pass
    assert [record.args[0] for record in caplog.records if record.name == "liap_tasks.beat"] == ["hourly"]


def test_by_the_machine_s_clock_a_thread_sends(liap_app: LiapApp) -> None:
    beats: queue.Queue[int] = queue.Queue()

    @liap_app.task(name="tests.count", shared=False)
    def count() -> None:
        beats.put(1)

    liap_app.conf.beat_schedule = {
        "unknown": {"task": "tests.nobody", "schedule": 0.01, "options": {"queue": 5}},  # cannot be sent
        "count": {"task": "tests.count", "schedule": 0.01},
    }
    with EmbeddedWorker(liap_app, beat=True):
        for _ in range(3):
            beats.get(timeout=DEADLINE)


def test_what_goes_wrong_is_said_and_the_next_turn_is_tried(
    liap_app: LiapApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beats: queue.Queue[int] = queue.Queue()
    broken = [OSError("the cable is out")]
    tick = MemoryScheduler.tick

    def tick_or_fail(scheduler: MemoryScheduler) -> Any:
        if broken:
            raise broken.pop()
        return tick(scheduler)

    @liap_app.task(name="tests.count", shared=False)
    def count() -> None:
        beats.put(1)

    monkeypatch.setattr(MemoryScheduler, "tick", tick_or_fail)
    liap_app.conf.beat_schedule = {"count": {"task": "tests.count", "schedule": 0.01}}
    with EmbeddedWorker(liap_app, beat=True):
        beats.get(timeout=DEADLINE)
    assert "beat fails (OSError: the cable is out): no periodic task is sent" in caplog.text
    assert "beat is back" in caplog.text


def test_a_schedule_that_makes_no_sense_ends_the_start(liap_app: LiapApp) -> None:
    liap_app.conf.beat_schedule = {"wrong": {"task": "tests.tidy", "schedule": 10, "arguments": ()}}
    worker = EmbeddedWorker(liap_app, beat=True)
    with pytest.raises(TypeError, match="arguments"):
        worker.start()
    assert not worker.running


# -- a process of its own --------------------------------------------------------------------------------------

BEAT_APP = """
from liap_tasks import MessagePriority, create_app

app = create_app(main="beat_app")
app.conf.beat_schedule = {
    "every second": {
        "task": "tests.periodic",
        "schedule": 1,
        "args": ("game-1",),
        "options": {"priority": MessagePriority.CRITICAL, "answer_within": 30},
    },
    "refused": {"task": "tests.periodic", "schedule": 1, "options": {"dedup_key": "x"}},
}
"""


@contextmanager
def beat(folder: Path, url: str) -> Iterator[Callable[[], str]]:
    """Run ``celery beat`` and give what reads its log; end it with SIGTERM."""
    (folder / "beat_app.py").write_text(BEAT_APP, encoding="utf-8")
    log = folder / "beat.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "beat_app", "beat", "-l", "INFO", "-s", str(folder / "schedule")],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
                "PYTHONWARNINGS": "",
                "PYTHONUNBUFFERED": "1",
                "MESSAGE_QUEUE_URL": url,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield lambda: log.read_text(encoding="utf-8")
            for _ in range(4):  # Celery's handler raises, which Python forgets in a finalizer or a callback
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(DEADLINE / 4)
                    break
            assert process.poll() == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def test_a_beat_process_feeds_workers_over_rabbitmq(
    new_app: Callable[..., LiapApp], rabbitmq_virtual_host: str, tmp_path: Path
) -> None:
    app = new_app(message_queue_url=rabbitmq_virtual_host)
    calls: queue.Queue[tuple[Any, float]] = queue.Queue()
    beside: queue.Queue[int] = queue.Queue()

    @app.task(name="tests.periodic", bind=True, shared=False)
    def periodic(self: Any, game: str) -> None:
        assert game == "game-1"
        calls.put((self.request.delivery_info["priority"], self.deadline - app.time_source.time()))

    @app.task(name="tests.beside", shared=False)
    def of_the_beat_beside() -> None:
        beside.put(1)

    app.conf.beat_schedule = {"beside": {"task": "tests.beside", "schedule": 0.1}}
    with EmbeddedWorker(app, beat=True), beat(tmp_path, rabbitmq_virtual_host) as log:
        for _ in range(2):
            priority, left = calls.get(timeout=DEADLINE)
            assert priority == MessagePriority.CRITICAL
            assert 0 < left <= 30
            beside.get(timeout=DEADLINE)
    assert "no such key on the broker amqp://" in log()  # a key that RabbitMQ would ignore is refused, and said


def test_a_beat_process_whose_broker_nobody_shares_says_so(tmp_path: Path) -> None:
    waiting = 0
    with beat(tmp_path, "liap-memory://") as log:
        while "where no worker is" not in log():
            waiting += 1
            assert waiting < 6000, log()
            signal.sigtimedwait([], 0.01)


def test_the_app_of_a_program_gets_its_own_schedule_back(liap_app: LiapApp) -> None:
    liap_app.conf.beat_schedule = {"kept": {"task": "tests.tidy", "schedule": 10}}
    with isolated(liap_app, clock=WorkerClock()):
        assert "kept" in liap_app.conf.beat_schedule
