"""Settings become Celery configuration: queues with bounds, TTL and a place for their dead letters.

Why a queue knows its dead-letter queue: a dead letter whose queue nobody has declared yet is lost, on RabbitMQ too.
:class:`WorkQueue` declares the place of its dead letters before itself, so whoever can publish to it or consume from
it has made that place exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from kombu import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES, get_transport_cls

from liap_tasks.errors import ConfigurationError
from liap_tasks.policies import MessagePriority
from liap_tasks.settings import Settings

__all__ = [
    "DEAD_LETTER_EXCHANGE",
    "DEAD_LETTER_QUEUE",
    "DELIVERY_LIMIT",
    "NotChosen",
    "WorkQueue",
    "broker_feature",
    "check_broker",
    "celery_configuration",
    "dead_letter_queue",
    "is_redis",
    "transport_options",
    "work_queue",
    "work_queue_arguments",
]

DEFAULT_QUEUE = "liap_tasks"
DEAD_LETTER_EXCHANGE = "dead_letters"
DEAD_LETTER_QUEUE = "dead_letters"
DELIVERY_LIMIT = 20
"""Deliveries of a message without an acknowledgement before it is a dead letter; RabbitMQ's default since 4.0."""


def broker_feature(url: str, feature: str) -> bool:
    """Tell whether the transport of a broker URL declares a feature (``Transport.implements``), without connecting.

    Only our transports do, so kombu's others are not even imported: they may need a package that is not installed.
    """
    scheme = urlsplit(url).scheme
    if not scheme.startswith("liap-"):
        return False
    transport: Any = get_transport_cls(scheme)
    return bool(transport.implements.get(feature, False))


def check_broker(settings: Settings) -> None:
    """Raise ConfigurationError if the broker URL names no known transport, or one whose Python package is missing."""
    scheme = urlsplit(settings.broker_url).scheme.split("+")[0]
    if scheme not in TRANSPORT_ALIASES:
        raise ConfigurationError(
            "MESSAGE_QUEUE_URL", settings.message_queue_url, "a URL whose scheme is " + ", ".join(TRANSPORT_ALIASES)
        )
    if scheme in ("redis", "rediss") and find_spec("redis") is None:
        name = "MESSAGE_QUEUE_TYPE" if settings.message_queue_url is None else "MESSAGE_QUEUE_URL"
        value = settings.message_queue_url or settings.message_queue_type
        raise ConfigurationError(name, value, "another broker, or Redis after `pip install redis`")


def counts_deliveries(url: str) -> bool:
    """Tell whether the broker of a URL honours ``x-delivery-limit`` on every queue: ours do."""
    return urlsplit(url).scheme.startswith("liap-")


def is_amqp(url: str) -> bool:
    """Tell whether a broker URL means RabbitMQ."""
    return urlsplit(url).scheme in ("amqp", "amqps", "pyamqp")


def is_redis(url: str) -> bool:
    """Tell whether a broker URL means kombu's redis transport."""
    return urlsplit(url).scheme.split("+")[0] in ("redis", "rediss", "sentinel")


class _UrgentFirst(list[int]):
    """The lists of a queue on kombu's redis transport: found by rising level, looked through from the highest.

    kombu looks through them as they are listed, so that 0 would be the most urgent there (kombu 5.7).
    """

    def __iter__(self) -> Iterator[int]:
        return reversed(self)


def transport_options(url: str) -> dict[str, Any]:
    """Return the options that the transport of a broker URL needs to do what is promised here."""
    if is_amqp(url):
        return {"confirm_publish": True}
    if is_redis(url):
        return {"priority_steps": _UrgentFirst([0, 3, 6, 9])}  # kombu's own steps
    return {}


class WorkQueue(Queue):
    """A queue that declares its dead-letter queue before itself."""

    attrs = (*Queue.attrs, ("dead_letters", None))

    def __init__(self, name: str = "", *args: Any, dead_letters: Queue | None = None, **options: Any) -> None:
        super().__init__(name, *args, **options)
        self.dead_letters = dead_letters

    def declare(self, nowait: bool = False, channel: Any = None) -> str:
        """Declare the dead-letter queue, then the exchange, the queue and the binding."""
        if self.dead_letters is not None:
            self.dead_letters.bind(channel or self.channel).declare()
        return str(super().declare(nowait=nowait, channel=channel))


def dead_letter_queue() -> Queue:
    """Return the queue in which dead letters wait: durable, without TTL and without bound, so that none is lost."""
    exchange = Exchange(DEAD_LETTER_EXCHANGE, type="topic", durable=True)
    return Queue(DEAD_LETTER_QUEUE, exchange=exchange, routing_key="#", durable=True)


def work_queue(name: str, settings: Settings) -> WorkQueue:
    """Return a task queue with the settings' bound and TTL; what cannot stay in it goes to the dead letters."""
    return WorkQueue(
        name,
        exchange=Exchange(name, type="direct", durable=True),
        routing_key=name,
        durable=True,
        dead_letters=dead_letter_queue(),
        queue_arguments=work_queue_arguments(settings),
    )


def work_queue_arguments(settings: Settings) -> dict[str, Any]:
    """Return the arguments that a task queue is declared with.

    A full queue refuses publishes (``QueueFullError`` in the caller): a publisher that knows can wait, one that is not
    told cannot. RabbitMQ's queues are declared with priorities; ours have them or not as the broker URL says.
    """
    arguments: dict[str, Any] = {
        "x-max-length": settings.max_queue_size,
        "x-overflow": "reject-publish",
        "x-message-ttl": round(settings.default_message_ttl * 1000),
        "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
    }
    if counts_deliveries(settings.broker_url):
        arguments["x-delivery-limit"] = DELIVERY_LIMIT
    if broker_feature(settings.broker_url, "message_groups"):
        arguments["x-message-groups"] = True
    if broker_feature(settings.broker_url, "deduplication"):
        arguments["x-deduplication-window"] = round(settings.dedup_window_seconds * 1000)
    if is_amqp(settings.broker_url):
        arguments["x-max-priority"] = int(MessagePriority.CRITICAL)
    return arguments


class NotChosen(int):
    """A concurrency that nobody chose, for the pool that has a default of its own."""


def chosen_concurrency(settings: Settings) -> int:
    """Return how many tasks a worker runs at once; a :class:`NotChosen` if MAX_CONCURRENT_HANDLERS is not given."""
    number = settings.max_concurrent_handlers
    return number if "max_concurrent_handlers" in settings.model_fields_set else NotChosen(number)


def celery_configuration(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration for these settings."""
    url = settings.broker_url
    in_process = broker_feature(url, "in_process")
    ours = urlsplit(url).scheme.startswith("liap-")
    return {
        "broker_url": url,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": transport_options(url),
        # Results go to the caller's reply queue, for the calls that ask for them (ignore_result=False).
        "result_backend": "rpc://",
        "result_expires": 3600,
        "task_ignore_result": True,
        # Done means acknowledged: a task that was cut short is delivered again.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_track_started": False,
        # On a broker of ours events would be most of the traffic; a monitor (Flower) asks workers for them.
        "task_send_sent_event": not ours,
        "worker_send_task_events": not ours,
        "worker_concurrency": chosen_concurrency(settings),
        "worker_consumer": "liap_tasks.worker.consumer:LiapConsumer",
        "worker_prefetch_multiplier": 4,
        "beat_scheduler": "liap_tasks.beat:PersistentScheduler",
        # A forked child has no part in a broker that lives in its parent's memory.
        "worker_pool": "liap_tasks.pools.threads:TaskPool" if in_process else "prefork",
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "enable_utc": True,
        "timezone": "UTC",
        "task_queues": [work_queue(DEFAULT_QUEUE, settings)],
        "task_default_queue": DEFAULT_QUEUE,
        "task_default_exchange": DEFAULT_QUEUE,
        "task_default_routing_key": DEFAULT_QUEUE,
        "task_default_priority": int(MessagePriority.NORMAL),
        "task_routes": {},
        "task_inherit_parent_priority": False,
    }
