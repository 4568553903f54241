"""The broker as a program: its options, its log, its signals.

``celery -A ... broker`` takes the same options. Exit codes: 0 stopped, 1 it could not serve (the last line says why),
3 another broker serves the socket, or has the journal, already.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import logging.handlers
import os
import resource
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from transports.broker.background import go_to_background
from transports.broker.journal import FileJournal, JournalError, JournalLocked
from transports.broker.listening import AlreadyServedError, UnixListener, listen_on_tcp
from transports.broker.server import BrokerServer
from transports.engine.errors import EngineError
from transports.wire.address import DEFAULT_PORT, TcpAddress, UnixAddress
from transports.wire.frames import DEFAULT_FRAME_MAX
from transports.wire.lock_file import name_socket, read_holder
from transports.wire.places import default_journal, default_socket, journal_lock
from transports.wire.program import ALREADY_SERVED, TOKEN_VARIABLE

__all__ = ["arguments", "main", "run", "tcp_address"]

LOG_BYTES = 1024 * 1024
MOST_FILES = 65_536

logger = logging.getLogger("transports.broker")


def arguments() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m transports.broker",
        description="Serve a message broker to the processes of this machine.",
        epilog="Clients connect to liap-broker:///PATH, or to liap-broker://:TOKEN@HOST:PORT.",
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=default_socket(),
        help="the Unix socket to serve, or 'none' to serve TCP alone (default: %(default)s)",
    )
    parser.add_argument(
        "--tcp",
        metavar="HOST:PORT",
        help=f"serve a loopback port too (default port {DEFAULT_PORT}), to clients with the token in {TOKEN_VARIABLE}",
    )
    parser.add_argument(
        "--journal",
        metavar="DIRECTORY",
        help="keep durable queues and persistent messages here over kills and restarts, or 'none' "
        f"(default: {default_journal()} for the default socket, else none)",
    )
    parser.add_argument(
        "--sync",
        choices=("os", "disk"),
        default="os",
        help="confirm a publish when the operating system has it, which survives a kill of the broker, or when the "
        "disk has it, which survives a power cut (default: os)",
    )
    parser.add_argument("--idle-exit", metavar="SECONDS", type=float, help="stop after so long without any client")
    parser.add_argument(
        "--frame-max",
        metavar="BYTES",
        type=int,
        default=DEFAULT_FRAME_MAX,
        help="the largest message that is taken (default: %(default)s)",
    )
    parser.add_argument("--log", metavar="FILE", help="write the log to a file that is rotated at 1 MB, not to stderr")
    parser.add_argument(
        "--background",
        action="store_true",
        help="return when the broker serves and let it go on; prints its process number (give it a --log too)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the options, serve until a signal or idleness ends it, and return the exit code."""
    parser = arguments()
    options = parser.parse_args(argv)
    if options.idle_exit is not None and not options.idle_exit >= 0:
        parser.error(f"--idle-exit {options.idle_exit}: seconds, 0 or more")
    if options.journal is None:
        options.journal = default_journal() if options.socket == default_socket() else "none"
    if options.frame_max < 4096:
        parser.error(f"--frame-max {options.frame_max}: bytes, at least 4096")
    report = go_to_background() if options.background else _tell_nobody
    code, text = 0, ""
    try:
        _set_up_log(options.log)
        _allow_many_clients()
        asyncio.run(run(options, lambda: report(0, str(os.getpid()))))
    except AlreadyServedError as error:
        code, text = ALREADY_SERVED, str(error)
    except JournalLocked as error:
        code, text = ALREADY_SERVED, str(error)
        socket = read_holder(journal_lock(options.journal)).socket
        if socket is not None:
            text += f"; that one serves {socket} (liap-broker://{socket})"
    except (EngineError, JournalError, OSError, ValueError) as error:
        code, text = 1, f"the broker cannot serve: {error}"
    if code:
        logger.error("%s", text)
        report(code, text)
    return code


def _tell_nobody(code: int, text: str) -> None:
    """Report nothing: who started this broker sees its log and its exit code."""


def _allow_many_clients() -> None:
    """Take as many connections as the system allows; the usual soft limit, 1,024 files, is for programs with select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # some systems have a lower limit that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _set_up_log(file: str | None) -> None:
    handler: logging.Handler = (
        logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=2)
        if file
        else logging.StreamHandler()
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s broker[%(process)d] %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


async def run(options: argparse.Namespace, serving: Callable[[], None]) -> None:
    """Serve as the options say until a signal or idleness; serving: called once clients can connect.

    The signals are SIGTERM, SIGINT and SIGHUP (the terminal was closed), the last one unless it is ignored.
    """
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def end(reason: str) -> None:
        if not ended.done():
            ended.set_result(reason)

    stopping = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup, and in the background
        stopping.append(signal.SIGHUP)
    for number in stopping:
        loop.add_signal_handler(number, end, f"it was told to stop ({signal.Signals(number).name})")
    unix = None if options.socket == "none" else UnixAddress(os.path.abspath(options.socket))
    tcp = None if options.tcp is None else tcp_address(options.tcp)
    if unix is None and tcp is None:
        raise ValueError("--socket none needs --tcp HOST:PORT: else there is nothing to serve")
    token = os.environ.pop(TOKEN_VARIABLE, "")
    if tcp is not None and not token:
        raise ValueError(f"--tcp needs a token: set {TOKEN_VARIABLE} to a secret that clients give in their URL")
    with ExitStack() as held:
        on_unix = journal = None
        if unix is not None:
            on_unix = UnixListener(unix)
            held.callback(on_unix.release)
        if options.journal != "none":
            journal = FileJournal(options.journal, sync=options.sync)
            held.callback(journal.close)
        server = BrokerServer(
            loop,
            frame_max=options.frame_max,
            journal=journal,
            on_failure=lambda error: end(f"its journal failed: {error}"),
            idle_exit=options.idle_exit,
            on_idle=lambda: end(f"nobody was here for {options.idle_exit:g} s"),
        )
        listeners = held.enter_context(ExitStack())
        if on_unix is not None:
            await on_unix.listen(server, end)
            listeners.callback(on_unix.close)
        if tcp is not None:
            listeners.callback((await listen_on_tcp(server, tcp, token)).close)
        if journal is not None and unix is not None:
            name_socket(journal_lock(options.journal), unix.path)
        places = " and ".join(str(place) for place in (unix, tcp) if place is not None)
        logger.info("serving %s, journal %s", places, options.journal)
        serving()
        reason = await ended
        listeners.close()
        logger.info("stopping: %s", reason)
        await server.close(f"the broker stops: {reason}")


def tcp_address(given: str) -> TcpAddress:
    """Return what HOST:PORT means; either may be left out. Raises ValueError, InvalidArgument."""
    host, colon, port = given.rpartition(":")
    is_ipv6_alone = given.endswith("]") or (given.count(":") > 1 and not given.startswith("["))
    if not colon or is_ipv6_alone:
        host, port = given, str(DEFAULT_PORT)
    if not port.isdigit():
        raise ValueError(f"--tcp {given}: HOST:PORT, such as 127.0.0.1:{DEFAULT_PORT}")
    return TcpAddress(host.strip("[]") or "127.0.0.1", int(port))
