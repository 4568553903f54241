"""A message that is carried unread: its properties and headers stay the block of bytes that they arrived as.

To the engine it is a message like any other. It answers what queues ask (priority, expiration, delay, group,
deduplication id) from the few values that travel beside the block, and opens the block only when somebody asks for all
headers or properties. That saves the broker two decodings a message and, in memory, some twenty objects.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from transports.engine.message import Message
from transports.wire.content import RULE_HEADERS, pack_content, unpack_content

__all__ = ["CarriedMessage"]


class CarriedMessage(Message):
    """A message whose ``content`` (packed properties and headers) nobody has opened yet.

    rules: the headers of RULE_HEADERS that the message has, or None; the delay is among them until it is read.
    persistent: whether a journal keeps it.
    """

    __slots__ = ("content", "persistent", "rules")

    def __init__(
        self,
        body: bytes,
        content: bytes,
        exchange: str,
        routing_key: str,
        *,
        priority: int | None = None,
        expiration: str | None = None,
        rules: dict[str, Any] | None = None,
        persistent: bool = True,
    ) -> None:
        """Raises InvalidArgument for a priority, expiration or delay out of range."""
        self.content = content
        self.rules = rules
        self.persistent = persistent  # type: ignore[misc]  # a slot here, there what is read from the properties
        self.body = body
        self.exchange = exchange
        self.routing_key = routing_key
        self.size = len(body)
        self.check_rules(priority, expiration, rules)

    @property
    def properties(self) -> dict[str, Any]:  # type: ignore[override]  # a slot there: what is stored, here what is read
        """The properties, decoded anew at each call."""
        return self._opened()[0]

    @property
    def headers(self) -> dict[str, Any] | None:  # type: ignore[override]  # as above
        """The headers, decoded anew at each call."""
        return self._opened()[1]

    def _opened(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        # A publisher can write anything. A block that is none counts as empty here, in the middle of the broker's work,
        # and goes on to its consumer as it is.
        try:
            return unpack_content(self.content)
        except ValueError:
            return {}, None

    def header(self, name: str) -> Any:
        """Return one header; those that queues ask for cost no decoding."""
        if name in RULE_HEADERS:
            rules = self.rules
            return rules.get(name) if rules else None
        return (self.headers or {}).get(name)

    def is_identified_by(self, message_id: str) -> bool:
        """Tell whether this is the message's id, opening the block only where the id stands in it."""
        return message_id.encode() in self.content and super().is_identified_by(message_id)

    def redirected(
        self, exchange: str, routing_key: str, headers: dict[str, Any], properties: dict[str, Any]
    ) -> CarriedMessage:
        """Return the same body addressed elsewhere, with other headers.

        What can be read from a block and not be written again (lists in lists beyond what packing takes) is left out.
        """
        try:
            content = pack_content(properties, headers)
        except (TypeError, ValueError):
            content = pack_content(_writable(properties), _writable(headers))
        return CarriedMessage(
            self.body,
            content,
            exchange,
            routing_key,
            priority=properties.get("priority"),
            expiration=properties.get("expiration"),
            rules={name: headers[name] for name in RULE_HEADERS if name in headers} or None,
            persistent=self.persistent,
        )


def _writable(table: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in table.items():
        with suppress(TypeError, ValueError):
            pack_content({name: value}, None)
            kept[name] = value
    return kept
