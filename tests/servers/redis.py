"""A private Redis server: nothing on disk, loopback only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import answers, free_ports, private_folder, started

__all__ = ["redis"]


@contextmanager
def redis(program: Path) -> Iterator[str]:
    """Run a server inside the ``with`` block and yield its redis:// URL (database 0)."""
    (port,) = free_ports(1)
    with started(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        folder=private_folder("redis"),
        ready=lambda: answers(port, b"PING\r\n", b"+PONG"),
    ):
        yield f"redis://127.0.0.1:{port}/0"
