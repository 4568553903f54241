"""Celery for a game backend: queues that keep their word, retries, timeouts and dead letters as attributes of a task.

::

    from liap_tasks import EmbeddedWorker, RetryPolicy, create_app

    app = create_app()

    @app.task(retry_policy=RetryPolicy(max_retries=5, initial_delay=0.2))
    def settle(game_id: str) -> None: ...
"""

import transports  # noqa: F401 - registers the URL schemes
from liap_tasks.application import LiapApp, create_app
from liap_tasks.batches import BatchItem, BatchTask
from liap_tasks.dead_letters import DeadLetterRecord
from liap_tasks.embedded import EmbeddedWorker
from liap_tasks.errors import (
    AnswerTimeoutError,
    ConfigurationError,
    DeadLetterError,
    DuplicateTaskError,
    EmbeddedWorkerError,
    LiapError,
    RoutingError,
    UniqueStoreError,
)
from liap_tasks.events import EventExchange
from liap_tasks.metadata import Attempt, MessageMetadata
from liap_tasks.policies import (
    DeadLetter,
    DeadLetterPolicy,
    DeadLetterReason,
    DeliveryOptions,
    MessagePriority,
    RetryPolicy,
    Unique,
)
from liap_tasks.settings import Settings, load_settings
from liap_tasks.task import LiapTask
from liap_tasks.worker import inspect_commands  # noqa: F401 - registers the remote control commands
from transports import BrokerUnavailableError, InvalidArgumentError, QueueFullError

__all__ = [
    # the app
    "app",
    "create_app",
    "EmbeddedWorker",
    "LiapApp",
    "LiapTask",
    "BatchItem",
    "BatchTask",
    "Settings",
    "load_settings",
    # policies
    "DeadLetterPolicy",
    "DeliveryOptions",
    "MessagePriority",
    "RetryPolicy",
    "Unique",
    # events
    "EventExchange",
    # messages
    "Attempt",
    "DeadLetter",
    "DeadLetterReason",
    "DeadLetterRecord",
    "MessageMetadata",
    # errors
    "AnswerTimeoutError",
    "BrokerUnavailableError",
    "ConfigurationError",
    "DeadLetterError",
    "DuplicateTaskError",
    "EmbeddedWorkerError",
    "InvalidArgumentError",
    "LiapError",
    "QueueFullError",
    "RoutingError",
    "UniqueStoreError",
]

app = create_app()
