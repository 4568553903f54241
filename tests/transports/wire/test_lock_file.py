"""A lock file: one process holds it at a time, and a child that it has forked does not keep it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transports.forking import idle_child, in_child
from transports.broker import BrokerThread
from transports.broker.journal import FileJournal
from transports.wire.lock_file import LockFile, name_socket, read_holder

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


@pytest.fixture
def held(path: Path) -> Iterator[LockFile]:
    lock = LockFile(path)
    assert lock.take()
    lock.sign()
    yield lock
    lock.release()


def can_be_had(path: Path) -> bool:
    lock = LockFile(path)
    try:
        return lock.take()
    finally:
        lock.release()


def test_who_does_not_get_it_reads_who_has_it_and_leaves_it_alone(path: Path, held: LockFile) -> None:
    other = LockFile(path)

    assert not other.take()
    assert other.holder().pid == os.getpid()
    other.release()
    assert held.holder().pid == os.getpid()
    assert not can_be_had(path)


def test_the_signature_names_the_process_and_its_socket_until_it_is_given_up(path: Path, held: LockFile) -> None:
    name_socket(str(path), "/run/a b.sock")
    assert read_holder(str(path)) == (os.getpid(), "/run/a b.sock")

    held.release()
    assert read_holder(str(path)) == read_holder("/nowhere") == (None, None)


def test_a_lock_whose_file_was_removed_is_not_in_place(path: Path, held: LockFile) -> None:
    assert held.in_place
    path.unlink()
    assert not held.in_place
    path.touch()
    assert not held.in_place


def test_what_is_released_can_be_had_while_a_child_lives_that_was_forked_before(path: Path, held: LockFile) -> None:
    with idle_child():
        held.release()

        assert can_be_had(path)


def test_a_child_that_releases_its_parent_s_lock_changes_nothing(path: Path, held: LockFile) -> None:
    assert in_child(lambda: str(held.release())) == "None"

    assert held.holder().pid == os.getpid()
    assert not can_be_had(path)


FORKING = """
import os, sys, time
from transports.wire.lock_file import LockFile, name_socket, read_holder
lock = LockFile(sys.argv[1])
assert lock.take()
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
time.sleep(60)
"""


def test_a_killed_process_holds_nothing_while_its_child_lives(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"forked\n"
        assert not can_be_had(path)
        process.kill()
        process.wait()

        assert can_be_had(path)


def test_a_broker_that_has_stopped_can_be_started_again_while_a_child_lives(tmp_path: Path) -> None:
    socket = str(tmp_path / "b.sock")
    broker = BrokerThread(socket).start()
    with idle_child():
        broker.stop()

        BrokerThread(socket).start().stop()


def test_a_closed_journal_can_be_opened_again_while_a_child_lives(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    with idle_child():
        journal.close()

        FileJournal(tmp_path).close()
