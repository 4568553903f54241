"""The user's own broker: started by whoever needs it first, once, and ended when nobody does; its messages stay."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import kombu
import pytest

from tests.transports.served.processes import BrokerProcess
from transports import BrokerUnavailableError
from transports.served import auto_start, dialing
from transports.wire.address import UnixAddress
from transports.wire.places import default_journal, default_log, default_socket
from transports.wire.program import ALREADY_SERVED

PATIENCE = 60


@pytest.fixture(autouse=True)
def home() -> Iterator[Path]:
    """A user whose directories nobody has used; the broker that a test starts ends with it."""
    with TemporaryDirectory(prefix="liap-") as folder, pytest.MonkeyPatch.context() as environment:
        for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
            path = Path(folder, variable[4:7].lower())
            path.mkdir(mode=0o700)
            environment.setenv(variable, str(path))
        yield Path(folder)
        if (pid := broker_pid()) is not None:
            with suppress(ProcessLookupError):  # killed by the test
                end(pid, signal.SIGKILL)


def broker_pid() -> int | None:
    """Return the process that serves the user's socket."""
    try:
        return int(Path(f"{default_socket()}.lock").read_text())
    except (FileNotFoundError, ValueError):
        return None


def end(pid: int, number: signal.Signals) -> None:
    """Send a signal to a broker and wait until it is gone."""
    watched = os.pidfd_open(pid)
    try:
        os.kill(pid, number)
        assert number == signal.SIGKILL or waits_for(watched)
        waits_for(watched)
    finally:
        os.close(watched)


def waits_for(pidfd: int) -> bool:
    """Wait until a process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(PATIENCE * 1000))


def facts() -> dict[str, object]:
    with kombu.Connection("liap-broker://") as connection:
        told: dict[str, object] = connection.channel().broker_stats()
        return told


def test_the_first_client_starts_a_broker_and_says_so_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    pid = facts()["pid"]

    assert pid == broker_pid()
    (line,) = [record.getMessage() for record in caplog.records]
    for told in (str(pid), default_socket(), default_log(), f"kill {pid}"):
        assert told in line
    assert f"serving {default_socket()}, journal {default_journal()}" in Path(default_log()).read_text()
    assert facts()["pid"] == pid
    assert len(caplog.records) == 1


def test_clients_that_come_at_once_start_one_broker() -> None:
    program = (
        "import kombu, transports; c = kombu.Connection('liap-broker://'); print(c.channel().broker_stats()['pid'])"
    )
    clients = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    told = [client.communicate(timeout=PATIENCE) for client in clients]

    assert {out.strip() for out, _ in told} == {str(broker_pid())}
    assert sum(err.count("started a broker") for _, err in told) <= 1
    assert Path(default_log()).read_text().count("serving") == 1


def test_what_is_persistent_survives_a_kill_of_the_broker() -> None:
    with kombu.Connection("liap-broker://") as connection:
        queue = kombu.Queue("kept", kombu.Exchange("kept-x", "topic"), "a.*")(connection.channel())
        queue.declare()
        producer = connection.Producer()
        for number in range(5):
            producer.publish(number, exchange="kept-x", routing_key="a.b")
        producer.publish("gone", exchange="kept-x", routing_key="a.b", delivery_mode=1)
        queue.get().ack()
        unsettled = queue.get()
        connection.channel().queue_declare("kept", passive=True)  # an answer: what came before has been done
        killed = broker_pid()
        assert killed is not None
        end(killed, signal.SIGKILL)

    with kombu.Connection("liap-broker://") as connection:
        connection.Producer().publish(5, exchange="kept-x", routing_key="a.c")
        assert broker_pid() != killed
        queue = kombu.Queue("kept")(connection.channel())
        found = [(message.payload, message.delivery_info["redelivered"]) for message in iter(queue.get, None)]
    assert found == [(unsettled.payload, True), (2, False), (3, False), (4, False), (5, False)]


def test_a_broker_that_nobody_needs_ends_and_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_start, "IDLE_EXIT", 1)
    with kombu.Connection("liap-broker://") as connection:
        kombu.Queue("kept")(connection.channel()).declare()
        connection.Producer().publish("still here", routing_key="kept")
        first = broker_pid()
        assert first is not None
        watched = os.pidfd_open(first)
    try:
        assert waits_for(watched)
    finally:
        os.close(watched)
    assert not Path(default_socket()).exists()
    assert "stopping: nobody was here for 1 s" in Path(default_log()).read_text()

    monkeypatch.setattr(auto_start, "IDLE_EXIT", 600)
    with kombu.Connection("liap-broker://") as connection:
        message = kombu.Queue("kept")(connection.channel()).get()
        assert message is not None
        assert message.payload == "still here"
        message.ack()


def test_a_broker_that_cannot_start_says_why(home: Path) -> None:
    Path(default_log()).parent.mkdir(mode=0o700)
    Path(default_journal()).write_text("not a directory")

    with pytest.raises(BrokerUnavailableError, match=r"none could be started: .*journal"):
        kombu.Connection("liap-broker://").connect()


def test_a_program_that_embeds_python_starts_the_broker_with_the_python_it_embeds(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = home / "uwsgi"
    embedding.write_text("#!/bin/sh\necho unrecognized option: -m >&2\nexit 1\n")
    embedding.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(embedding))

    assert facts()["pid"] == broker_pid()


def test_a_broker_in_the_background_outlives_the_terminal() -> None:
    pid = facts()["pid"]
    assert isinstance(pid, int)

    os.kill(pid, signal.SIGHUP)

    assert facts()["pid"] == pid


def test_a_broker_whose_log_cannot_be_opened_says_so() -> None:
    Path(default_log()).mkdir(parents=True)
    Path(default_log()).parent.chmod(0o700)

    with pytest.raises(BrokerUnavailableError, match=r"none could be started: .* Is a directory: .*broker\.log"):
        dialing.dial(UnixAddress(default_socket()), 1.0, auto_start=True)


def test_a_directory_that_cannot_be_made_is_named_with_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "file"))

    with pytest.raises(
        BrokerUnavailableError, match=r"none can be started: .*'.*/file/liap-tasks'; let .*XDG_STATE_HOME"
    ):
        dialing.dial(UnixAddress(default_socket()), 1.0, auto_start=True)


def test_a_runtime_directory_that_others_can_enter_is_refused() -> None:
    Path(default_socket()).parent.mkdir(mode=0o755)

    with pytest.raises(Exception, match="nobody else can enter"):
        kombu.Connection("liap-broker://").connect()


def test_a_runtime_directory_that_others_can_enter_is_refused_also_where_somebody_serves() -> None:
    directory = Path(default_socket()).parent
    with BrokerProcess(default_socket()):
        directory.chmod(0o777)

        with pytest.raises(Exception, match="nobody else can enter"):
            kombu.Connection("liap-broker://").connect()


# -- a broker that is there, but not where it is looked for ----------------------------------------------------


@pytest.mark.parametrize("removed", ["socket", "directory"])
def test_a_broker_whose_socket_was_removed_is_found_again(removed: str) -> None:
    with kombu.Connection("liap-broker://") as connection:
        channel = connection.channel()
        pid = channel.broker_stats()["pid"]
        if removed == "socket":
            Path(default_socket()).unlink()
        else:
            shutil.rmtree(Path(default_socket()).parent)

        assert facts()["pid"] == pid
        assert channel.broker_stats()["pid"] == pid  # who was connected has noticed nothing


def test_a_broker_that_is_there_and_does_not_answer_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    starts: list[object] = []

    def start(*asked: object) -> str:
        starts.append(asked)
        return "a broker serves this socket already (process 5)"

    monkeypatch.setattr(auto_start, "_start", start)
    monkeypatch.setattr(dialing, "START_SECONDS", 1.0)

    with pytest.raises(BrokerUnavailableError, match=r"already \(process 5\); nobody answers there: .*, or kill it"):
        dialing.dial(UnixAddress(default_socket()), 1.0, auto_start=True)

    assert len(starts) <= 3  # after 0, 0.2 and 0.6 s
    assert caplog.text.count("waiting for it up to") == 1


def test_processes_with_other_runtime_directories_meet_on_one_broker(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pid = facts()["pid"]
    with monkeypatch.context() as environment:
        (home / "other").mkdir(mode=0o700)
        environment.setenv("XDG_RUNTIME_DIR", str(home / "other"))

        assert facts()["pid"] == pid
    assert caplog.text.count("started a broker") == 1


def test_a_broker_that_was_killed_is_looked_for_nowhere_else(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = facts()["pid"]
    assert isinstance(killed, int)
    end(killed, signal.SIGKILL)
    (home / "other").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "other"))

    pid = facts()["pid"]
    assert isinstance(pid, int)
    end(pid, signal.SIGKILL)
    assert broker_pid() == pid != killed


def test_a_broker_on_a_journal_in_use_says_who_has_it_and_where(home: Path) -> None:
    pid = facts()["pid"]

    code, log = BrokerProcess(str(home / "b.sock"), "--journal", default_journal()).ended()

    assert code == ALREADY_SERVED
    assert f"belongs to process {pid}" in log
    assert f"that one serves {default_socket()} (liap-broker://{default_socket()})" in log


def test_a_socket_that_was_named_is_never_served_by_itself(home: Path) -> None:
    with pytest.raises(BrokerUnavailableError, match=r"python -m transports\.broker --socket"):
        kombu.Connection(f"liap-broker://{home}/named.sock").connect()
