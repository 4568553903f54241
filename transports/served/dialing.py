"""Reaching a served broker: connect to its socket, or say how to start one."""

from __future__ import annotations

import socket
from time import monotonic, sleep

from transports.errors import BrokerUnavailableError
from transports.wire.address import TcpAddress, UnixAddress

__all__ = ["dial"]

BACKLOG_FULL_SECONDS = 0.01


def dial(address: UnixAddress | TcpAddress, timeout: float, *, auto_start: bool = False) -> socket.socket:
    """Return a socket connected to ``address`` within ``timeout`` seconds; raises BrokerUnavailableError."""
    try:
        return _connect(address, timeout)
    except OSError as error:
        how = (
            f"python -m transports.broker --socket {address}"
            if isinstance(address, UnixAddress)
            else f"LIAP_BROKER_TOKEN=... python -m transports.broker --tcp {address}"
        )
        raise BrokerUnavailableError(f"no broker on {address} ({error}); start one: {how}") from error


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
