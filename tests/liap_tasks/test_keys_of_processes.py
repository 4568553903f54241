"""Ordering keys through worker processes: a killed one, and a prefork one, on our broker behind a socket."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from liap_tasks import LiapApp, dead_letters
from tests.liap_tasks.pools.processes import DEADLINE, running
from transports.broker import BrokerThread

SOURCE = """
import os, pathlib
from celery.exceptions import Ignore
from liap_tasks import RetryPolicy, create_app

app = create_app(main="keys")
quick = RetryPolicy(max_retries=2, initial_delay=0.05, jitter=False)

def note(folder, room, line):
    with open(os.path.join(folder, room), "ab", buffering=0) as file:
        file.write((line + "\\n").encode())

@app.task(bind=True, name="keys.step", ordering_key="room", retry_policy=quick, ignore_result=False, timeout=0)
def step(self, folder, room, what):
    note(folder, room, f"{what} {self.attempt}")
    if what == "waits":
        while not pathlib.Path(folder, "go").exists():
            pass
    if what == "never" or (what == "twice" and self.attempt == 1):
        raise OSError("again")
    if what == "ignored":
        raise Ignore
    note(folder, room, f"{what} done")
    return what
"""
ROOMS = ("a", "b", "c")
CALLS = ("waits", "twice", "never", "ignored", "twice", "last")
STEPS = ["twice 1", "twice 2", "twice done", "never 1", "never 2", "never 3", "ignored 1"]
ENDING = ["twice 1", "twice 2", "twice done", "last 1", "last done"]


@pytest.fixture
def served_app(new_app: Callable[..., LiapApp], tmp_path: Path) -> Iterator[LiapApp]:
    with BrokerThread(str(tmp_path / "b.sock")) as broker:
        yield new_app(message_queue_url=f"liap-broker://{broker.address}")


def lines(folder: Path, room: str) -> list[str]:
    """Return what the calls of a room have noted."""
    path = folder / room
    return path.read_text().splitlines() if path.exists() else []


def wait_until_all_have_begun(folder: Path) -> None:
    waiting = threading.Event()
    for _ in range(round(2 * DEADLINE / 0.02)):
        if all(lines(folder, room) for room in ROOMS):
            return
        waiting.wait(0.02)
    raise AssertionError("no worker has begun a call of each room")


def test_order_outlives_retries_dead_letters_and_the_death_of_a_worker(served_app: LiapApp, tmp_path: Path) -> None:
    app, folder = served_app, tmp_path / "notes"
    folder.mkdir()
    last = {}
    for room in ROOMS:
        for what in CALLS:
            call = (str(folder), room, what)
            last[room] = app.send_task("keys.step", call, ordering_key=room, ignore_result=False)

    with running(app, SOURCE, tmp_path, "-P", "threads", "-c", "4") as first:
        wait_until_all_have_begun(folder)
        first.stop(signal.SIGKILL)
    assert [lines(folder, room) for room in ROOMS] == [["waits 1"]] * 3  # nothing has overtaken them

    (folder / "go").touch()
    with running(app, SOURCE, tmp_path, "-P", "prefork", "-c", "4"):
        for room in ROOMS:
            assert last[room].get(timeout=2 * DEADLINE) == "last"
    for room in ROOMS:
        assert lines(folder, room) == ["waits 1", "waits 1", "waits done", *STEPS, *ENDING]
    assert sorted(letter.args[1] for letter in dead_letters.peek(app) if letter.args) == sorted(ROOMS)
