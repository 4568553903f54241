"""What all queue objects have: a queue of a broker, and the link by which it is reached."""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import urlsplit

from kombu import Queue

from liap_tasks.configuration import broker_feature, is_amqp
from liap_tasks.errors import ConfigurationError
from liap_tasks.messaging.in_process_link import InProcessLink
from liap_tasks.messaging.link import Link, Prepare
from liap_tasks.messaging.remote_link import RemoteLink

__all__ = ["LinkedQueue", "link_to"]


def link_to(url: str, prepare: Prepare) -> Link:
    """Return a link to the broker of a URL.

    Raises ConfigurationError for a broker that would not keep the rules of its queues.
    """
    if broker_feature(url, "in_process"):
        return InProcessLink(url, prepare)
    scheme = urlsplit(url).scheme
    if not is_amqp(url) and not scheme.startswith("liap-"):
        allowed = "a broker whose queues keep their rules, for queue objects: liap-memory://, liap-broker://, amqp://"
        raise ConfigurationError("MESSAGE_QUEUE_URL", f"{scheme}://", allowed)
    return RemoteLink(url, prepare)


class LinkedQueue:
    """A queue of a broker and the link by which it is reached."""

    def __init__(self, url: str, declaration: Queue) -> None:
        self.name: str = declaration.name
        self.url = url
        self.declaration = declaration
        """How it is declared (kombu's), for a worker or a router."""
        self.link: Link = link_to(url, _declaring(declaration))

    async def declare(self) -> None:
        """Make sure that the queue exists, with its bindings and the place of its dead letters."""
        await self.link.run(lambda channel: self.declaration(channel).declare())

    async def close(self) -> None:
        """Put back what is held here, and close the connection."""
        await self.link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, url={self.url!r})"


def _declaring(queue: Queue) -> Prepare:
    """Return what declares a queue on a channel. It must not refer to a queue object, which its link would keep."""

    def declare(channel: Any) -> None:
        queue(channel).declare()

    return declare
