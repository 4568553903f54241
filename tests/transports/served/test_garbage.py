"""Whoever sends garbage is dropped with a reason that the log has too; nobody else notices."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu import Connection
from msgpack import ExtType, Timestamp

from tests.transports.in_process_client import declare, publish
from tests.transports.served.raw import RawClient, eventually, sessions
from transports.broker import BrokerThread
from transports.wire.content import pack_content
from transports.wire.frames import pack_frame
from transports.wire.protocol import (
    ACK,
    CALL,
    DELIVERY,
    GOODBYE,
    HELLO,
    MAGIC,
    OPERATIONS,
    PING,
    PONG,
    PUBLISH,
    REJECT,
    VERSION,
)

CONTENT = pack_content({}, {})
FRAME_MAX = 64 * 1024


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerThread]:
    path = str(tmp_path_factory.mktemp("garbage") / "b.sock")
    with BrokerThread(path, frame_max=FRAME_MAX, handshake_seconds=0.2, frame_seconds=0.2) as broker:
        yield broker


class Witness:
    """A client that behaves, and sees whether it is disturbed."""

    def __init__(self, served: BrokerThread) -> None:
        self.connection = Connection(f"liap-broker://{served.address}")
        self.channel = self.connection.channel()
        declare(self.channel, "witness")
        self._said = 0

    def is_undisturbed(self) -> bool:
        self._said += 1
        publish(self.channel, "witness", str(self._said).encode())
        message = self.channel.basic_get("witness")
        message.ack()
        return bool(message.body == str(self._said).encode())


@pytest.fixture(scope="module")
def witness(served: BrokerThread) -> Iterator[Witness]:
    one = Witness(served)
    yield one
    one.connection.close()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(served: BrokerThread, witness: Witness, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After each test the witness is alone, no publisher waits, no task runs, and the broker has had no failure."""
    caplog.set_level(logging.INFO)
    tasks = served.call(lambda server: len(asyncio.all_tasks(server.loop)))
    yield
    eventually(lambda: sessions(served), 1)
    assert witness.is_undisturbed()
    assert served.call(lambda server: len(server.waiting_publishers)) == 0
    assert served.call(lambda server: list(server.brokers)) == ["/"]
    assert served.call(lambda server: len(asyncio.all_tasks(server.loop))) == tasks
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


def dropped(caplog: pytest.LogCaptureFixture) -> str:
    """Return the last line of the log about a dropped client."""
    lines = [record.getMessage() for record in caplog.records if " was dropped: " in record.getMessage()]
    return lines[-1]


# -- at the door -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "a frame of 1195725856 bytes"),
        (struct.pack(">I", 0xFFFFFFFF), "a frame of 4294967295 bytes"),
        (struct.pack(">I", 5000), "a frame of 5000 bytes; at most 4096"),
        (struct.pack(">I", 3) + b"\xc1\xc1\xc1", "a frame that is not msgpack"),
        (struct.pack(">I", 2) + b"\x90\x90", "a frame that is not msgpack"),
        (struct.pack(">I", 1) + b"\x90", "a frame that is not an array"),
        (struct.pack(">I", 3) + b"\xa2\xff\xfe", "a frame that is not msgpack"),
        (pack_frame((HELLO, "other", VERSION, {})), "not a client of this broker"),
        (pack_frame((HELLO, MAGIC, 99, {})), "it speaks version 99 of the protocol, this broker version 1"),
        (pack_frame((HELLO, MAGIC, "x" * 3000, {})), "it speaks version 'xxx"),
        (pack_frame((HELLO, MAGIC, VERSION, {"vhost": 5})), "a virtual host that has no name"),
        (pack_frame((HELLO, MAGIC, VERSION, {"heartbeat": 1e-9})), "a heartbeat that is neither 0 nor"),
        (pack_frame((HELLO, MAGIC, VERSION, {"heartbeat": float("nan")})), "a heartbeat that is neither 0 nor"),
        (pack_frame((PUBLISH, 1)), "not a client of this broker"),
    ],
)
def test_who_does_not_greet_as_the_protocol_says_is_told_why(
    served: BrokerThread, caplog: pytest.LogCaptureFixture, sent: bytes, reason: str
) -> None:
    with RawClient(str(served.address), name=None) as client:
        client.send_bytes(sent)
        told = client.farewell()

    assert told.startswith(reason)
    assert len(told) < 1_000
    assert dropped(caplog).endswith(told)
    assert "(process " in dropped(caplog)


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=20, deadline=None)
def test_random_bytes_instead_of_a_greeting_end_the_connection(
    served: BrokerThread, witness: Witness, sent: bytes
) -> None:
    with RawClient(str(served.address), name=None) as client:
        client.send_bytes(sent)
        client.farewell()
    assert witness.is_undisturbed()


@pytest.mark.parametrize("sent", [b"", b"\x00\x00\x00", pack_frame((HELLO, MAGIC, VERSION, {}))[:-1]])
def test_who_does_not_end_its_greeting_is_dropped(
    served: BrokerThread, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    with RawClient(str(served.address), name=None) as client:
        client.send_bytes(sent)
        assert "within 0.2 s" in client.farewell()
    assert "within 0.2 s" in dropped(caplog)


def test_a_name_cannot_write_lines_of_its_own_into_the_log(
    served: BrokerThread, caplog: pytest.LogCaptureFixture
) -> None:
    with RawClient(str(served.address), name="me\n2026-01-01 ERROR all is lost " + "x" * 2000) as client:
        client.send((HELLO, MAGIC, VERSION, {}))
        assert client.farewell() == "a second greeting"
    line = dropped(caplog)
    assert line.startswith("me\\n2026")
    assert "\n" not in line
    assert len(line) < 500


# -- in the house ----------------------------------------------------------------------------------------------


def publish_by(rules: dict[str, Any]) -> tuple[Any, ...]:
    return (PUBLISH, 1, 1, False, True, "", "q", None, None, rules, 0.0, CONTENT, b"body")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ((HELLO, MAGIC, VERSION, {}), "a second greeting"),
        ((99,), "a frame of kind 99 with 1 items"),
        ((DELIVERY, 1, "t", 1, False, None, "", "q", CONTENT, b""), "a frame of kind 16 with 10 items"),
        (("x" * 50_000,), "a frame of kind 'xxx"),
        ((ACK, 1, 1), "a frame of kind 3 with 3 items"),
        ((ACK, 5, 1, False), "channel 5 was never opened"),
        ((CALL, 1, 1, "drop_everything", []), "a call of 'drop_everything' that does not fit"),
        ((CALL, 1, 1, "__init__", []), "a call of '__init__' that does not fit"),
        ((CALL, 1, 0, "open_channel", [1]), "channel 1 is open already"),
        (publish_by({"x-group-id": ExtType(5, b"x")}), "a frame with a value of extension type 5"),
        (publish_by({"x-group-id": Timestamp(1)}), "a publish whose fields have other types"),
        (publish_by({"x-group-id": {1: 2}}), "a publish whose fields have other types"),
        ((CALL, 1, 1, "bind_queue", ["q", "x", "", {"a": {1: 2}}]), "a call of 'bind_queue' that does not fit"),
    ],
)
def test_a_frame_that_the_protocol_does_not_have_ends_the_connection(
    served: BrokerThread, caplog: pytest.LogCaptureFixture, frame: Any, reason: str
) -> None:
    with RawClient(str(served.address), name="odd").open_channel() as client:
        client.send(frame)
        told = client.farewell()
    assert told.startswith(reason)
    assert len(told) < 1_000
    assert dropped(caplog) == f"odd (process {os.getpid()}) on {served.address} was dropped: {told}"


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.lists(st.integers(0, 5) | st.text(max_size=3) | st.lists(st.none(), max_size=2), max_size=3),
    st.dictionaries(
        st.text(max_size=5)
        | st.integers(0, 9)
        | st.sampled_from(["x-delay", "x-group-id", "x-deduplication-id", "x-max-length", "x-match", "x-overflow"]),
        st.none()
        | st.integers().filter(lambda n: -(2**63) <= n < 2**63)
        | st.text(max_size=5)
        | st.lists(st.integers(0, 9), max_size=2),
        max_size=3,
    ),
)
OF_TYPE: dict[Any, Any] = {
    int: st.integers(-(2**63), 2**63 - 1),
    str: st.sampled_from(["q", "deep", "x", "h", "", "t", "amq.topic"]),
    bool: st.booleans(),
    list: st.lists(VALUES, max_size=3),
}


def calls() -> st.SearchStrategy[tuple[Any, ...]]:
    """Calls of every operation, with arguments of the right types and others."""

    def of(operation: str) -> st.SearchStrategy[tuple[Any, ...]]:
        fitting = st.tuples(*(OF_TYPE.get(kind, VALUES) for kind in OPERATIONS[operation])).map(list)
        arguments = fitting | st.lists(VALUES, max_size=7)
        return st.tuples(st.just(CALL), st.integers(0, 9) | VALUES, st.just(1) | VALUES, st.just(operation), arguments)

    return st.sampled_from(sorted(set(OPERATIONS) - {"broker_stats"})).flatmap(of)


def spoiled(*frame: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    """A valid frame with up to two fields replaced by anything."""

    def replace(changes: list[tuple[int, Any]]) -> tuple[Any, ...]:
        fields = list(frame)
        for position, value in changes:
            fields[position] = value
        return tuple(fields)

    change = st.tuples(st.integers(1, max(1, len(frame) - 1)), VALUES)
    return st.lists(change, max_size=2 if len(frame) > 1 else 0).map(replace)


RULES = {"x-group-id": "g", "x-deduplication-id": "d", "x-delay": 5}
FRAMES = st.one_of(
    spoiled(PUBLISH, 1, 1, True, True, "", "q", 3, "1000", RULES, 0.0, CONTENT, b"body"),
    spoiled(PUBLISH, 1, 2, False, False, "h", "q", None, None, None, 0.0, CONTENT, b"body"),
    spoiled(ACK, 1, 1, False),
    spoiled(REJECT, 1, 1, True, True),
    spoiled(PING),
    spoiled(PONG),
    spoiled(GOODBYE),
    calls(),
    st.lists(VALUES, min_size=1, max_size=6).map(tuple),
)


@given(st.lists(FRAMES, min_size=1, max_size=6))
@example([(CALL, 1, 1, "undeliver", [[{}]])])
@example([(CALL, 1, 1, "bind_queue", ["q", "h", "", {3: 4}]), (CALL, 1, 1, "delete_queue", ["q", False, False])])
@example([(CALL, 1, 1, "delayed", ["q", [{}, "x"]])])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_frames_with_any_values_are_answered_refused_or_end_the_connection(
    served: BrokerThread, witness: Witness, frames: list[tuple[Any, ...]]
) -> None:
    """Whatever comes of it, the broker has had no failure (see the fixture), and the witness none either."""
    with RawClient(str(served.address), vhost="fuzzed").open_channel() as client:
        client.call("declare_queue", "q", False, False, True, False, {"x-message-groups": True, "x-max-length": 3})
        client.call(
            "declare_queue", "deep", False, False, True, False, {"x-deduplication-window": 1000, "x-overflow": "block"}
        )
        client.call("declare_exchange", "h", "headers", False, False, True, False, {})
        client.call("bind_queue", "q", "h", "", {"x-match": "any-with-x", "a": 1})
        client.send(*frames, (GOODBYE,))
        client.farewell()
        assert witness.is_undisturbed()
    eventually(lambda: sessions(served), 1)
    served.call(_empty_fuzzed)


def _empty_fuzzed(server: Any) -> None:
    server.brokers.pop("fuzzed", None)  # durable things that the frames declared


@given(st.binary(min_size=1, max_size=300))
@settings(max_examples=60, deadline=None)
def test_random_bytes_in_a_frame_end_the_connection_or_mean_something(
    served: BrokerThread, witness: Witness, payload: bytes
) -> None:
    with RawClient(str(served.address)).open_channel() as client:
        client.send_bytes(struct.pack(">I", len(payload)) + payload)
        client.send((GOODBYE,))
        client.farewell()
    assert witness.is_undisturbed()


def test_a_frame_larger_than_the_broker_takes_is_refused_by_its_length(
    served: BrokerThread, caplog: pytest.LogCaptureFixture
) -> None:
    with RawClient(str(served.address)).open_channel() as client:
        client.send_bytes(struct.pack(">I", FRAME_MAX + 1))
        assert client.farewell() == f"a frame of {FRAME_MAX + 1} bytes; at most {FRAME_MAX} are taken"


def test_lists_inside_lists_that_claim_to_be_long_cost_no_memory(served: BrokerThread) -> None:
    payload = (b"\xdd" + struct.pack(">I", 60_000)) * 500
    with RawClient(str(served.address)).open_channel() as client:
        client.send_bytes(struct.pack(">I", len(payload)) + payload)
        assert client.farewell().startswith("a frame that is not msgpack")


def test_half_a_frame_is_waited_for_only_so_long(served: BrokerThread, caplog: pytest.LogCaptureFixture) -> None:
    frame = pack_frame((PUBLISH, 1, 1, False, False, "", "q", None, None, None, 0.0, CONTENT, b"x" * 5000))
    with RawClient(str(served.address), name="half").open_channel() as client:
        client.send_bytes(frame[:3000])
        assert client.farewell() == "a frame that was not ended within 0.2 s (3000 bytes)"
    assert dropped(caplog).startswith("half (process ")


def test_a_frame_that_comes_in_pieces_is_taken(served: BrokerThread) -> None:
    with RawClient(str(served.address)).open_channel() as client:
        frame = pack_frame((CALL, 5, 1, "declare_queue", ["", False, False, True, False, None]))
        for byte in frame:
            client.send_bytes(bytes([byte]))
        answer = client.receive()
    assert answer is not None
    assert answer[1] == 5
    assert answer[2][0].startswith("amq.gen-")
