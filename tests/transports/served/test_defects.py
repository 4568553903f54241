"""A defect of the broker itself: it is told to the client that met it, and the log; everybody else goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from kombu import Connection

from tests.transports.in_process_client import declare, publish, ready
from tests.transports.served.conftest import Connect
from tests.transports.served.raw import RawClient, eventually
from transports.broker import BrokerServer, BrokerThread
from transports.broker.journal import FileJournal, JournalError
from transports.engine import Broker
from transports.errors import TransportError
from transports.served.stream import ConnectionLost

Break = Callable[[str], None]


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Break:
    """Let an operation of the engine fail where a message or name says so."""

    def break_operation(name: str) -> None:
        whole = getattr(Broker, name)

        def broken(self: Broker, *arguments: Any, **options: Any) -> Any:
            if any(getattr(one, "body", one) in (b"break", "break") for one in arguments):
                raise RuntimeError("a defect")
            return whole(self, *arguments, **options)

        monkeypatch.setattr(Broker, name, broken)

    caplog.set_level(logging.INFO)
    return break_operation


def test_a_publish_that_the_broker_fails_at_is_refused_and_the_next_is_taken(
    connect: Connect, breaks: Break, caplog: pytest.LogCaptureFixture
) -> None:
    breaks("publish")
    channel = connect().channel()
    declare(channel, "q")

    with pytest.raises(TransportError, match="RuntimeError: a defect"):
        publish(channel, "q", b"break")
    with pytest.raises(TransportError), channel.pipeline() as pipeline:  # noqa: PT012 - the middle one is refused
        for body in (b"1", b"break", b"2"):
            publish(channel, "q", body)

    assert len(pipeline.refusals) == 1
    assert ready(channel, "q") == [b"1", b"2"]
    assert caplog.text.count("the broker failed at a message of") == 2
    assert "Traceback" in caplog.text


def test_a_call_that_the_broker_fails_at_is_answered(connect: Connect, breaks: Break) -> None:
    breaks("cancel_delayed")
    channel = connect().channel()
    declare(channel, "q")

    with pytest.raises(TransportError, match="RuntimeError: a defect"):
        channel.cancel_delayed("q", "break")

    assert channel.cancel_delayed("q", "whole") == 0


def test_a_settlement_that_the_broker_fails_at_ends_its_client_and_gives_back_what_it_held(
    served: BrokerThread, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    channel = connect().channel()
    declare(channel, "q")
    publish(channel, "q", b"held")

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a defect")

    with RawClient(str(served.address), name="unlucky").open_channel() as client, monkeypatch.context() as patched:
        client.call("get", "q", False)
        patched.setattr(Broker, "ack", broken)
        client.send((3, 1, 1, False))
        assert client.farewell() == "the broker failed at what it asked for; the broker's log has the traceback"

    eventually(lambda: ready(channel, "q"), [b"held"])
    assert "the broker failed at what unlucky (process " in caplog.text


def test_a_timer_that_fails_stops_no_other_virtual_host(
    served: BrokerThread, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = connect(vhost="here").channel(), connect(vhost="there").channel()
    whole = Broker.run_due

    def broken(self: Broker) -> None:
        if self.vhost == "here":
            raise RuntimeError("a defect")
        whole(self)

    def fail_once(server: BrokerServer) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Broker, "run_due", broken)
            server.run_due()

    declare(here, "q")
    declare(there, "q")
    publish(here, "q", b"late", headers={"x-delay": 30})
    publish(there, "q", b"late", headers={"x-delay": 30})

    served.call(fail_once)

    eventually(lambda: served.call(lambda server: [_ready(server, v) for v in ("here", "there")]), [1, 1])
    assert "the broker failed at what was due in virtual host 'here'" in caplog.text


def _ready(server: BrokerServer, vhost: str) -> int:
    return server.brokers[vhost].queues["q"].ready.live


@pytest.mark.parametrize(("sync", "failing"), [("os", "commit"), ("disk", "sync")])
def test_a_broker_whose_disk_is_full_confirms_nothing_more_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: Literal["os", "disk"], failing: str
) -> None:
    """What was not confirmed may be there or not; what was confirmed is."""

    def full(self: FileJournal) -> int:
        raise JournalError.of("cannot write", tmp_path, OSError(28, "No space left on device"))

    def open_journal() -> closing[FileJournal]:
        return closing(FileJournal(tmp_path / "journal", sync=sync))

    address = str(tmp_path / "b.sock")
    with open_journal() as journal, BrokerThread(address, journal=journal), Connection(f"liap-broker://{address}") as c:
        channel = c.channel()
        channel.queue_declare("q", durable=True, auto_delete=False)
        publish(channel, "q", b"confirmed", properties={"delivery_mode": 2})
        with monkeypatch.context() as patched:
            patched.setattr(FileJournal, failing, full)
            with pytest.raises(ConnectionLost, match=r"its journal failed: .*No space left on device"):
                publish(channel, "q", b"not confirmed", properties={"delivery_mode": 2})

    with open_journal() as journal, BrokerThread(address, journal=journal), Connection(f"liap-broker://{address}") as c:
        assert ready(c.channel(), "q")[0] == b"confirmed"
