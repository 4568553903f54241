"""Reaching a served broker: connect to it, start the user's own where there is none, or say how to start one."""

from __future__ import annotations

import socket
from contextlib import suppress
from time import monotonic, sleep

from transports.errors import BrokerUnavailableError
from transports.served.auto_start import START_SECONDS, own_places, start_broker
from transports.wire.address import TcpAddress, UnixAddress
from transports.wire.program import TOKEN_VARIABLE

__all__ = ["dial"]

BACKLOG_FULL_SECONDS = 0.01


def dial(address: UnixAddress | TcpAddress, timeout: float, *, auto_start: bool = False) -> socket.socket:
    """Return a socket connected to ``address`` within ``timeout`` seconds.

    auto_start: the address is the user's own; if nobody serves it, connect to the broker that has the user's journal,
    or start one in the background. That may take START_SECONDS.
    Raises BrokerUnavailableError.
    """
    if auto_start and isinstance(address, UnixAddress):
        return _dial_own(address, timeout)
    try:
        return _connect(address, timeout)
    except OSError as error:
        raise BrokerUnavailableError(f"no broker on {address} ({error}); start one: {_how(address)}") from error


def _dial_own(address: UnixAddress, timeout: float) -> socket.socket:
    deadline = monotonic() + max(timeout, START_SECONDS)

    def reach() -> socket.socket | None:
        for place in own_places(address):
            with suppress(OSError):
                return _connect(place, timeout)
        return None

    sock = reach()
    while sock is None:
        sock = start_broker(address, deadline, reach) or reach()
    return sock


def _how(address: UnixAddress | TcpAddress) -> str:
    if isinstance(address, UnixAddress):
        return f"python -m transports.broker --socket {address}"
    return f"{TOKEN_VARIABLE}=... python -m transports.broker --tcp {address}"


def _connect(address: UnixAddress | TcpAddress, timeout: float) -> socket.socket:
    if isinstance(address, TcpAddress):
        sock = socket.create_connection((address.host, address.port), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        deadline = monotonic() + timeout
        while True:
            try:
                sock.connect(address.path)
                break
            except BlockingIOError:  # so many connect at once that the broker's backlog is full
                if monotonic() > deadline:
                    raise
                sleep(BACKLOG_FULL_SECONDS)
    except BaseException:
        sock.close()
        raise
    return sock
