"""What each transport honours: the one place where a difference between transports is declared.

The conformance suite runs a scenario on every transport that declares its feature, and checks on RabbitMQ that what is
declared missing is missing. The capability table in ``README.md`` is generated from here (``celery transports``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["CAPABILITIES", "FEATURES", "Capabilities", "Support"]


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a feature is honoured, and what to know about it."""

    supported: bool
    note: str = ""


YES = Support(True)


def no(note: str) -> Support:
    """Declare a feature as missing, with the reason."""
    return Support(False, note)


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """The features of one transport, in the order of the README's table."""

    direct: Support = YES
    topic: Support = YES
    fanout: Support = YES
    headers: Support = YES
    default_exchange: Support = YES
    exchange_to_exchange: Support = YES
    alternate_exchange: Support = YES
    fifo: Support = YES
    priority: Support = YES
    priority_by_default: Support = YES
    priority_aging: Support = YES
    message_ttl: Support = YES
    queue_ttl: Support = YES
    eager_expiry: Support = YES
    broker_delay: Support = YES
    max_length: Support = YES
    max_length_bytes: Support = YES
    overflow_drop_head: Support = YES
    overflow_reject_publish: Support = YES
    overflow_reject_publish_dlx: Support = YES
    overflow_block: Support = YES
    overflow_drop_lowest: Support = YES
    dead_letter: Support = YES
    dead_letter_cycle_rule: Support = YES
    delivery_limit: Support = YES
    deduplication: Support = YES
    message_groups: Support = YES
    queue_expiry: Support = YES
    exclusive: Support = YES
    auto_delete: Support = YES
    single_active_consumer: Support = YES
    consumer_priority: Support = YES
    prefetch: Support = YES
    global_prefetch: Support = YES
    requeue_in_place: Support = YES
    redelivered_flag: Support = YES
    publisher_confirms: Support = YES
    synchronous_full_error: Support = YES
    mandatory_return: Support = YES
    strict_arguments: Support = YES
    statistics: Support = YES
    peek: Support = YES


FEATURES: tuple[str, ...] = tuple(field.name for field in fields(Capabilities))

_PRIORITY_ON_REQUEST = no("only queues declared with x-max-priority")

CAPABILITIES: dict[str, Capabilities] = {
    "liap-memory": Capabilities(priority_by_default=_PRIORITY_ON_REQUEST),
    "liap-priority": Capabilities(),
    "liap-broker": Capabilities(priority_by_default=_PRIORITY_ON_REQUEST),
    "liap-broker-priority": Capabilities(),
    "amqp": Capabilities(
        priority_by_default=_PRIORITY_ON_REQUEST,
        priority_aging=no("RabbitMQ ignores x-priority-aging"),
        eager_expiry=no("an expired message leaves when it reaches the head of its queue"),
        strict_arguments=no("RabbitMQ ignores queue arguments it does not know"),
        broker_delay=no("needs a plugin; Celery's eta is used instead"),
        overflow_block=no("RabbitMQ refuses this x-overflow"),
        overflow_drop_lowest=no("RabbitMQ refuses this x-overflow"),
        delivery_limit=Support(True, "on quorum queues only"),
        deduplication=no("needs a plugin"),
        message_groups=no("RabbitMQ ignores x-message-groups"),
        synchronous_full_error=no("the refusal is a negative confirm; confirm_publish must be on"),
        statistics=no("read RabbitMQ's management interface"),
        peek=no("get and requeue instead"),
    ),
}
