"""The broker as a program: who may use its socket, one broker for one socket, how it starts and ends."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transports.served.processes import BrokerProcess
from tests.transports.served.raw import RawClient, eventually
from transports.broker.command import main, tcp_address
from transports.wire.address import TcpAddress
from transports.wire.content import pack_content
from transports.wire.program import ALREADY_SERVED, TOKEN_VARIABLE
from transports.wire.protocol import PUBLISH

CONTENT = pack_content({"delivery_mode": 2}, {})
TOKEN = "a token nobody can guess"


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o177])
def test_socket_and_directory_are_their_owner_s_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "new" / "b.sock"
    if umask:
        path.parent.mkdir(mode=0o700)  # a directory of that umask could not be entered
    with BrokerProcess(str(path), umask=umask) as broker:
        assert mode(path.parent) == 0o700
        assert mode(path) == 0o600
        assert mode(Path(f"{path}.lock")) == 0o600
        files, most = resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE)
        assert files == min(most, 65_536)  # each client is one


def test_a_second_broker_says_who_serves_and_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "b.sock")
    with BrokerProcess(path) as first, RawClient(path).open_channel() as client:
        code, log = BrokerProcess(path).ended()

        assert code == ALREADY_SERVED
        assert f"a broker serves {path} already (process {first.process.pid})" in log
        assert client.call("declare_queue", "q", False, False, False, False, None) == ["q", 0, 0]


def test_a_socket_that_a_killed_broker_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "b.sock"
    with BrokerProcess(str(path)) as broker:
        broker.process.kill()
        broker.ended()
        assert path.is_socket()
        broker.again()
        RawClient(str(path)).open_channel().socket.close()


@pytest.fixture
def _heeds_its_terminal() -> Iterator[None]:
    """Let what is started heed SIGHUP, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_heeds_its_terminal")
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda told: told.name)
def test_told_to_stop_it_says_goodbye_with_the_reason_and_leaves_nothing(tmp_path: Path, told: signal.Signals) -> None:
    path, log = tmp_path / "b.sock", tmp_path / "b.log"
    with BrokerProcess(str(path), "--log", str(log)) as broker, RawClient(str(path), name="me") as client:
        broker.process.send_signal(told)

        assert client.farewell() == f"the broker stops: it was told to stop ({told.name})"
        assert broker.ended() == (0, "")
    assert not path.exists()
    text = log.read_text()
    assert f"serving {path}" in text
    assert f"stopping: it was told to stop ({told.name})" in text


@pytest.mark.parametrize("comes", [False, True])
def test_it_ends_when_nobody_is_there_or_comes(tmp_path: Path, comes: bool) -> None:
    path = tmp_path / "b.sock"
    broker = BrokerProcess(str(path), "--idle-exit", "1.0" if comes else "0.05")
    try:
        if comes:
            eventually(broker.serves)
            with RawClient(str(path)) as client:
                client.send((20,))
                client.until(21)
        code, log = broker.ended()
    finally:
        broker.kill()
    assert code == 0
    assert "nobody was here for" in log
    assert not path.exists()


@pytest.mark.parametrize("keeps", [False, True])
def test_it_says_how_many_messages_go_with_it(tmp_path: Path, keeps: bool) -> None:
    path = str(tmp_path / "b.sock")
    options = ["--journal", str(tmp_path / "journal")] if keeps else []
    with BrokerProcess(path, *options) as broker, RawClient(path).open_channel() as client:
        for queue, durable in (("durable", True), ("transient", False)):
            client.call("declare_queue", queue, False, durable, False, False, None)
            client.send(*[(PUBLISH, 1, 0, False, True, "", queue, None, None, None, 0.0, CONTENT, b"")] * 2)
        client.call("broker_stats")
        broker.process.send_signal(signal.SIGTERM)
        _, log = broker.ended()
    reason = "they are transient, or in queues that are not durable" if keeps else "it has no journal"
    assert f"{2 if keeps else 4} messages go with this broker: {reason}" in log


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_tcp_is_for_those_with_the_token(tmp_path: Path) -> None:
    port = free_port()
    address = TcpAddress("127.0.0.1", port)
    with BrokerProcess(str(tmp_path / "b.sock"), "--tcp", str(address), environment={TOKEN_VARIABLE: TOKEN}) as broker:
        eventually(lambda: listens(port))
        with RawClient(address, token=TOKEN) as client:
            client.open_channel()
        for wrong in ({}, {"token": "a guess"}, {"token": 5}, {"token": TOKEN + "x"}, {"token": "ü" * 24}):
            with RawClient(address, name=None) as client:
                client.send((0, "liap-broker", 1, wrong))
                assert client.farewell() == "wrong token"
        broker.process.send_signal(signal.SIGTERM)
        _, log = broker.ended()
        assert TOKEN not in log
        assert log.count("was dropped: wrong token") == 5


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("127.0.0.1", "127.0.0.1:5680"),
        ("localhost:1", "localhost:1"),
        (":1", "127.0.0.1:1"),
        ("::1", "[::1]:5680"),
        ("[::1]", "[::1]:5680"),
        ("[::1]:1", "[::1]:1"),
    ],
)
def test_a_port_is_what_stands_behind_the_host(given: str, meant: str) -> None:
    assert str(tcp_address(given)) == meant


def test_tcp_alone_takes_nobody_s_socket(tmp_path: Path) -> None:
    environment = {TOKEN_VARIABLE: TOKEN, "XDG_RUNTIME_DIR": str(tmp_path)}
    port = free_port()
    broker = BrokerProcess("none", "--tcp", f"127.0.0.1:{port}", environment=environment)
    try:
        eventually(lambda: listens(port))
        RawClient(TcpAddress("127.0.0.1", port), token=TOKEN).open_channel().socket.close()
        broker.process.send_signal(signal.SIGTERM)
        code, log = broker.ended()
    finally:
        broker.kill()
    assert code == 0
    assert f"serving 127.0.0.1:{port}, journal none" in log
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_serve_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert "--socket none needs --tcp" in fails(caplog, "--socket", "none")


def fails(caplog: pytest.LogCaptureFixture, *options: str) -> str:
    """Run the command, which must fail, and return its last line."""
    logger = logging.getLogger("transports.broker")
    handlers, level = list(logger.handlers), logger.level
    try:
        assert main(options) == 1
    finally:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        asyncio.set_event_loop(None)
    return caplog.messages[-1]


def test_a_path_that_is_too_long_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "a path of at most 103 bytes" in fails(caplog, "--socket", str(tmp_path / ("x" * 104)))


def test_a_file_in_the_place_of_the_socket_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "b.sock"
    path.write_text("precious")
    assert "a path where no file stands" in fails(caplog, "--socket", str(path))
    assert path.read_text() == "precious"


def test_a_lock_that_is_a_link_is_refused_and_its_file_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "b.sock.lock").symlink_to(tmp_path / "precious")
    assert "the broker cannot serve" in fails(caplog, "--socket", str(tmp_path / "b.sock"))
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    ("tcp", "token", "reason"),
    [
        ("127.0.0.1:0", None, f"--tcp needs a token: set {TOKEN_VARIABLE}"),
        ("127.0.0.1:0", "short", "at least 16 characters"),
        ("0.0.0.0:5680", TOKEN, "a loopback address"),
        ("example.com:5680", TOKEN, "a loopback address"),
        ("127.0.0.1:99999", TOKEN, "a number from 0 to 65535"),
        ("127.0.0.1:port", TOKEN, "HOST:PORT"),
    ],
)
def test_tcp_without_a_secret_or_beyond_this_machine_is_refused(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tcp: str,
    token: str | None,
    reason: str,
) -> None:
    if token is None:
        monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    told = fails(caplog, "--socket", str(tmp_path / "b.sock"), "--tcp", tcp)
    assert reason in told
    assert token is None or token not in told
    assert not (tmp_path / "b.sock").exists()


@pytest.mark.parametrize("options", [["--idle-exit", "-1"], ["--idle-exit", "nan"], ["--frame-max", "10"]])
def test_numbers_out_of_range_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert options[0] in capsys.readouterr().err
