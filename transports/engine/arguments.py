"""The ``x-`` arguments of a queue, checked and turned into one value.

RabbitMQ's names and meanings (RabbitMQ docs: Queues, TTL, Queue Length Limit, Priority, Dead Letter Exchanges),
plus ours: ``x-priority-aging``, ``x-deduplication-window``, ``x-message-groups`` and the overflow rules ``block`` and
``drop-lowest``.
A rule of a queue is added here as one row of the table, with its words for what is allowed.

Why strict: RabbitMQ ignores arguments it does not know, so a misspelt ``x-max-lenght`` bounds nothing until the night
it matters. Here an unknown argument is an error that names the known ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transports.engine.errors import InvalidArgument, precondition_failed

__all__ = ["KNOWN_ARGUMENTS", "OVERFLOW_RULES", "QueueArguments", "declared_table", "parse_arguments"]

Overflow = Literal["drop-head", "reject-publish", "reject-publish-dlx", "block", "drop-lowest"]
Strategy = Literal["at-most-once", "at-least-once"]

OVERFLOW_RULES: tuple[Overflow, ...] = (
    "drop-head",
    "reject-publish",
    "reject-publish-dlx",
    "block",
    "drop-lowest",
)
MAX_MILLISECONDS = 315_360_000_000  # ten years, RabbitMQ's bound


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueArguments:
    """What a queue was declared with. Times in seconds, None where not asked for."""

    message_ttl: float | None = None
    expires: float | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    overflow: Overflow = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    dead_letter_strategy: Strategy = "at-most-once"
    max_priority: int | None = None
    priority_aging: float | None = None
    delivery_limit: int | None = None
    single_active_consumer: bool = False
    deduplication_window: float | None = None
    message_groups: bool = False


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(low: int, high: int | None, unit: str) -> tuple[Callable[[Any], Any], str]:
    allowed = f"a whole number of {unit}, {low} or more" if high is None else f"a whole number from {low} to {high}"

    def parse(value: Any) -> int:
        if not _is_integer(value) or value < low or (high is not None and value > high):
            raise ValueError
        return int(value)

    return parse, allowed


def _milliseconds(low: int) -> tuple[Callable[[Any], Any], str]:
    parse_whole, _ = _whole(low, MAX_MILLISECONDS, "milliseconds")
    return (
        lambda value: parse_whole(value) / 1000.0,
        f"a whole number of milliseconds from {low} to {MAX_MILLISECONDS}",
    )


def _seconds() -> tuple[Callable[[Any], Any], str]:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError
        return float(value)

    return parse, "a number of seconds above 0"


def _text() -> tuple[Callable[[Any], Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError
        return value

    return parse, "a string"


def _flag() -> tuple[Callable[[Any], Any], str]:
    def parse(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return parse, "true or false"


def _one_of(*choices: str) -> tuple[Callable[[Any], Any], str]:
    def parse(value: Any) -> str:
        for choice in choices:
            if value == choice:  # the choice itself: a member of an enumeration compares equal and prints otherwise
                return choice
        raise ValueError

    return parse, "one of " + ", ".join(choices)


# argument: (field of QueueArguments, (parser, what is allowed))
KNOWN_ARGUMENTS: dict[str, tuple[str, tuple[Callable[[Any], Any], str]]] = {
    "x-message-ttl": ("message_ttl", _milliseconds(0)),
    "x-expires": ("expires", _milliseconds(1)),
    "x-max-length": ("max_length", _whole(0, None, "messages")),
    "x-max-length-bytes": ("max_length_bytes", _whole(0, None, "bytes")),
    "x-overflow": ("overflow", _one_of(*OVERFLOW_RULES)),
    "x-dead-letter-exchange": ("dead_letter_exchange", _text()),
    "x-dead-letter-routing-key": ("dead_letter_routing_key", _text()),
    "x-dead-letter-strategy": ("dead_letter_strategy", _one_of("at-most-once", "at-least-once")),
    "x-max-priority": ("max_priority", _whole(1, 255, "levels")),
    "x-priority-aging": ("priority_aging", _seconds()),
    "x-delivery-limit": ("delivery_limit", _whole(0, None, "returns")),
    "x-single-active-consumer": ("single_active_consumer", _flag()),
    "x-deduplication-window": ("deduplication_window", _milliseconds(1)),
    "x-message-groups": ("message_groups", _flag()),
}

# Fields of QueueArguments that are declared in milliseconds.
_IN_MILLISECONDS = frozenset({"message_ttl", "expires", "deduplication_window"})

# Arguments that only say what is true here anyway.
_TRUE_ANYWAY = {"x-queue-type": "classic", "x-queue-mode": "default"}


def parse_arguments(arguments: Mapping[str, Any] | None) -> QueueArguments:
    """Return the checked arguments of a queue.

    Raises InvalidArgument naming the argument, its value and what is allowed; ChannelRefusal(406) for a
    dead-letter routing key without a dead-letter exchange (as RabbitMQ).
    """
    if not arguments:
        return QueueArguments()
    fields: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in _TRUE_ANYWAY:
            if value != _TRUE_ANYWAY[name]:
                raise InvalidArgument(name, value, f"{_TRUE_ANYWAY[name]} (this broker has no other kind)")
            continue
        row = KNOWN_ARGUMENTS.get(name)
        if row is None:
            raise InvalidArgument(name, value, "the queue arguments " + ", ".join(sorted(KNOWN_ARGUMENTS)))
        field, (parse, allowed) = row
        try:
            fields[field] = parse(value)
        except ValueError:
            raise InvalidArgument(name, value, allowed) from None
    if "dead_letter_routing_key" in fields and "dead_letter_exchange" not in fields:
        raise precondition_failed("x-dead-letter-routing-key needs x-dead-letter-exchange")
    if "priority_aging" in fields and "max_priority" not in fields:
        raise InvalidArgument("x-priority-aging", arguments["x-priority-aging"], "only together with x-max-priority")
    return QueueArguments(**fields)


def declared_table(arguments: QueueArguments) -> dict[str, Any]:
    """Return every known argument as a client would declare it, None where it is not asked for."""
    table = {}
    for name, (field, _) in KNOWN_ARGUMENTS.items():
        value = getattr(arguments, field)
        table[name] = round(value * 1000) if field in _IN_MILLISECONDS and value is not None else value
    return table
