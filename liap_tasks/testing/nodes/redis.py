"""A Redis server of the node's own: a process of ``redis-server`` in PATH, on a free port of the loopback interface."""

from __future__ import annotations

import socket
from typing import Any

from pytest_celery import RedisContainer

__all__ = ["LocalRedisContainer", "free_port"]


class LocalRedisContainer(RedisContainer):
    """pytest-celery's Redis, found at the port that it was started with. It survives ``restart()``, its data do not."""

    @classmethod
    def command(cls, *args: str, **options: Any) -> list[str]:
        """Return the command; ``args`` are more arguments of ``redis-server``."""
        command: list[str] = super().command("--port", str(free_port()), "--bind", "127.0.0.1", *args, **options)
        return command

    @property
    def hostname(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        words: list[str] = self._container.command
        return int(words[words.index("--port") + 1])

    @property
    def url(self) -> str:
        return f"{self.prefix()}{self.hostname}:{self.port}/{self.vhost}"

    @property
    def host_url(self) -> str:
        return self.url


def free_port() -> int:
    """Return a TCP port that is free on the loopback interface now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
