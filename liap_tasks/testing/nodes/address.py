"""Nodes that are an address: a server that somebody else runs (RabbitMQ, PostgreSQL), or none at all (SQLite, rpc).

They answer everything that is a question. Killing or restarting them raises :class:`NotOurServerError`: the server is
other tests' server too.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from uuid import uuid4

from pytest_celery import CeleryTestContainer, RabbitMQContainer, RabbitMQTestBroker

from liap_tasks.testing.nodes.errors import DockerOnlyError, NotOurServerError
from liap_tasks.testing.nodes.process import ContainerAttributes

__all__ = ["Address", "AddressContainer", "LocalRabbitMQBroker", "LocalRabbitMQContainer"]


class Address:
    """What stands in for Docker's container where there is an address only."""

    status = "running"

    def __init__(self, url: str, label: str) -> None:
        self.url = url
        self.id = uuid4().hex
        self.name = f"{label}-{self.id[:12]}"

    @property
    def attrs(self) -> dict[str, Any]:
        return ContainerAttributes(
            self.name,
            {"Id": self.id, "Name": self.name, "NetworkSettings": {"Networks": {}, "Ports": {}}},
        )

    def logs(self) -> bytes:
        """Return nothing: the log is whoever's who runs the server."""
        return b""

    def reload(self) -> None:
        """Nothing to do."""

    def kill(self, signal: str | int | None = None) -> None:
        raise NotOurServerError(self.name, "kill")

    def restart(self, timeout: float = 0) -> None:
        raise NotOurServerError(self.name, "restart")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise DockerOnlyError(self.name, name)


class AddressContainer(CeleryTestContainer):
    """A node known by its URL: ``AddressContainer(Address("rpc://", "rpc"))``."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)  # type: ignore[no-untyped-call]  # pytest-docker-tools has no types here

    @property
    def celeryconfig(self) -> dict[str, Any]:
        url: str = self._container.url
        return {"url": url, "host_url": url}


class LocalRabbitMQContainer(RabbitMQContainer):
    """A virtual host of a RabbitMQ that runs."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)  # type: ignore[no-untyped-call]  # pytest-docker-tools has no types here

    @property
    def url(self) -> str:
        url: str = self._container.url
        return url

    @property
    def host_url(self) -> str:
        return self.url

    @property
    def hostname(self) -> str:
        return urlsplit(self.url).hostname or "localhost"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 5672

    @property
    def vhost(self) -> str:
        return unquote(urlsplit(self.url).path[1:]) or "/"

    @property
    def ready_prompt(self) -> str | None:
        return None


class LocalRabbitMQBroker(RabbitMQTestBroker):
    """A broker node whose ``config(vhost=...)`` also works for virtual hosts of more than one letter."""

    def config(self, *args: Any, **changes: Any) -> dict[str, Any]:
        """Return the addresses for Celery; ``vhost`` names another virtual host, which must exist."""
        vhost = changes.pop("vhost", None)
        config: dict[str, Any] = super().config(*args, **changes)
        if vhost is not None:
            path = f"/{quote(str(vhost), safe='')}"
            for key in ("url", "host_url"):
                config[key] = urlunsplit(urlsplit(config[key])._replace(path=path))
            config["vhost"] = str(vhost)
        return config
