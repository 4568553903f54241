"""``celery -A liap_tasks dlq`` as processes of their own, on RabbitMQ, sharing one store."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from liap_tasks import LiapApp, configuration
from liap_tasks.dead_letter_store import DeadLetterStore, LetterFilter
from liap_tasks.dead_letter_store.operations import replay
from liap_tasks.dead_letter_store.replay import LEASE
from tests.liap_tasks.dead_letter_store.letters import task_letter

ROOT = Path(__file__).resolve().parents[3]
DEADLINE = 60.0
LETTERS = 1000


class Commands:
    """Starts ``celery -A liap_tasks dlq ...`` for an app's broker and store."""

    def __init__(self, app: LiapApp, **variables: str) -> None:
        self.environment = {
            **os.environ,
            "MESSAGE_QUEUE_URL": app.conf.broker_url,
            "DLQ_STORE_URL": app.settings.dlq_store_url,
            "MAX_QUEUE_SIZE": str(app.settings.max_queue_size),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "",
            "NO_COLOR": "1",
            **variables,
        }

    def start(
        self, *arguments: str, stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "liap_tasks", "dlq", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return self.ended(self.start(*arguments))

    @staticmethod
    def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
        try:
            out, err = process.communicate(timeout=DEADLINE)
        finally:
            if process.poll() is None:
                process.kill()
        return process.returncode, out, err


@pytest.fixture
def rabbit(new_app: Callable[..., LiapApp], rabbitmq_url: str, tmp_path: Path) -> Iterator[Callable[..., LiapApp]]:
    """Make an app on RabbitMQ with a store on disk; its queues are new."""
    made: list[LiapApp] = []

    def make(**settings: Any) -> LiapApp:
        app = new_app(message_queue_url=rabbitmq_url, dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3", **settings)
        made.append(app)
        delete_queues(app)
        return app

    yield make
    for app in made:
        delete_queues(app)
        app.dead_letter_store.close()


def delete_queues(app: LiapApp) -> None:
    with app.connection_for_write() as connection, connection.channel() as channel:
        for queue in (configuration.DEFAULT_QUEUE, configuration.DEAD_LETTER_QUEUE):
            channel.queue_delete(queue)


def sent_ids(app: LiapApp) -> Counter[str]:
    """Take the messages out of the task queue and return their task ids."""
    ids: Counter[str] = Counter()
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = app.amqp.queues[configuration.DEFAULT_QUEUE].bind(channel)
        while (message := queue.get(no_ack=True)) is not None:
            ids[message.headers["id"]] += 1
    return ids


def record(app: LiapApp, count: int) -> list[str]:
    letters = [task_letter(app, f"l{number}", args=(number,), died_at=1e9 + number) for number in range(count)]
    app.dead_letter_store.record(letters)
    return [str(letter.task_id) for letter in letters]


def test_two_processes_that_replay_at_once_send_each_letter_once(rabbit: Callable[..., LiapApp]) -> None:
    app = rabbit()
    expected = record(app, LETTERS)
    commands = Commands(app)
    both = [commands.start("replay", "--all", "--rate", "0", "--json") for _ in range(2)]
    reports = []
    for process in both:
        code, out, err = commands.ended(process)
        assert code == 0 or json.loads(out)["matched"] == 0, err
        reports.append(json.loads(out))
    assert sum(report["replayed"] for report in reports) == LETTERS
    assert sent_ids(app) == Counter(expected)
    assert app.dead_letter_store.stats().by_state == {"replayed": LETTERS}


def test_ctrl_c_ends_a_replay_between_two_letters(rabbit: Callable[..., LiapApp]) -> None:
    app = rabbit()
    record(app, 200)
    commands = Commands(app)
    process = commands.start("replay", "--all", "--rate", "20")
    wait_until(lambda: app.dead_letter_store.count(LetterFilter(states=("replayed",))) > 0)
    process.send_signal(signal.SIGINT)
    code, out, err = commands.ended(process)
    assert code == 1, err
    assert "stopped: interrupted" in err
    assert "Traceback" not in err
    sent = sent_ids(app)
    assert f"{len(sent)} of 200" in out
    assert set(sent.values()) == {1}
    assert app.dead_letter_store.count(LetterFilter(states=("replayed",))) == len(sent)
    claimed = app.dead_letter_store.claim(LetterFilter(), claimant="next", lease=1, limit=200)
    assert len(claimed) == 200 - len(sent)  # all the others are free


def test_a_killed_replay_loses_nothing_and_repeats_at_most_one_batch(rabbit: Callable[..., LiapApp]) -> None:
    app = rabbit()
    expected = record(app, 200)
    process = Commands(app).start("replay", "--all", "--rate", "100")  # a batch: 50
    wait_until(lambda: app.dead_letter_store.count(LetterFilter(states=("replayed",))) > 0)
    process.kill()
    Commands.ended(process)
    later = DeadLetterStore(app.settings.dlq_store_url, clock=lambda: time.time() + LEASE + 1)
    assert later.count() == 200
    freed = later.claim(LetterFilter(), claimant="later", lease=1, limit=200)  # as after the lease
    later.release([letter.id for letter in freed], claimant="later")
    later.close()
    report = replay(app, rate=0)
    sent = sent_ids(app)
    assert set(sent) == set(expected)
    assert sum(sent.values()) <= 250
    assert report.replayed == len(freed)


def test_a_full_queue_of_rabbitmq_ends_the_replay_too(rabbit: Callable[..., LiapApp]) -> None:
    app = rabbit(max_queue_size=3)
    record(app, 5)
    report = replay(app, rate=0)
    assert report.stopped is not None
    assert "is full" in report.stopped
    assert (report.replayed, report.matched) == (3, 5)
    assert app.dead_letter_store.stats().by_state == {"dead": 2, "replayed": 3}


def test_the_program_answers_with_its_codes(rabbit: Callable[..., LiapApp]) -> None:
    app = rabbit()
    record(app, 2)
    commands = Commands(app)
    code, out, _ = commands.run("stats", "--json")
    assert (code, json.loads(out)["total"]) == (0, 2)
    code, out, err = commands.run("show", "nobody")
    assert (code, out) == (1, "")
    assert err.startswith("Error: there is no dead letter 'nobody'")
    code, _, err = commands.run("replay")
    assert (code, "Traceback" in err) == (2, False)


def test_a_command_cannot_send_into_the_memory_of_another_process(rabbit: Callable[..., LiapApp]) -> None:
    app = rabbit()
    record(app, 1)
    code, _, err = Commands(app, MESSAGE_QUEUE_URL="liap-memory://").run("replay", "--all")
    assert code == 1
    assert "shared with no other process" in err
    assert len(err.splitlines()) == 1
    assert app.dead_letter_store.stats().by_state == {"dead": 1}


def test_a_terminal_gets_a_bar_and_a_question(new_app: Callable[..., LiapApp], tmp_path: Path) -> None:
    app = new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3")
    record(app, 3)
    commands = Commands(app, TERM="xterm")
    code, shown = on_terminal(commands, "export", "--output", str(tmp_path / "letters.jsonl"))
    assert (code, "exporting" in shown) == (0, True), shown
    code, shown = on_terminal(commands, "replay", "--all", "--dry-run")
    assert (code, "counting" in shown) == (0, True), shown
    code, shown = on_terminal(commands, "purge", "--all", typed="n\n")
    assert (code, "Delete 3 dead letters for good?" in shown) == (1, True), shown
    assert app.dead_letter_store.count() == 3
    code, shown = on_terminal(commands, "purge", "--all", typed="y\n")
    assert (code, "3 purged" in shown, "purging" in shown) == (0, True, True), shown
    assert app.dead_letter_store.count() == 0
    app.dead_letter_store.close()


def on_terminal(commands: Commands, *arguments: str, typed: str = "") -> tuple[int, str]:
    """Run a command whose standard input and error are a terminal; return its code and what the terminal showed."""
    ours, theirs = pty.openpty()
    process = commands.start(*arguments, stdin=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    with contextlib.suppress(OSError):  # Linux: EIO when the other side is closed
        while part := os.read(ours, 4096):
            shown += part
    code, _, _ = commands.ended(process)
    os.close(ours)
    return code, shown.decode()


def wait_until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(round(DEADLINE / 0.02)):
        if condition():
            return
        waiting.wait(0.02)
    raise AssertionError("it did not happen in time")
