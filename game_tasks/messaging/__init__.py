"""The names of the message-queue document: the game's own, and the general ones of :mod:`liap_tasks.messaging`."""

from game_tasks.events import GameEvent, GameEventType
from game_tasks.messaging.event_handler import GameEventHandler
from game_tasks.messaging.event_queue import GameEventQueue
from game_tasks.messaging.task_processor import GameTaskProcessor
from liap_tasks.messaging import (
    AsyncMessageHandler,
    BatchMessageHandler,
    BoundedInMemoryQueue,
    ContentRouter,
    DeadLetter,
    DeadLetterEntry,
    DeadLetterHandler,
    DeadLetterPolicy,
    DeadLetterQueue,
    DeadLetterReason,
    DeliveryOptions,
    DirectRouter,
    HandlerChain,
    InMemoryQueue,
    Message,
    MessageHandler,
    MessageMetadata,
    MessagePriority,
    MessageQueue,
    OverflowStrategy,
    PatternRouter,
    PriorityInMemoryQueue,
    QueueFullError,
    RetryableDeadLetterQueue,
    RetryingHandler,
    RetryPolicy,
    Route,
    Router,
    RouterChain,
    TimeoutHandler,
    TopicRouter,
)

__all__ = [
    # the game's
    "GameEvent",
    "GameEventHandler",
    "GameEventQueue",
    "GameEventType",
    "GameTaskProcessor",
    # messages
    "DeliveryOptions",
    "Message",
    "MessageMetadata",
    "MessagePriority",
    # queues
    "BoundedInMemoryQueue",
    "InMemoryQueue",
    "MessageQueue",
    "OverflowStrategy",
    "PriorityInMemoryQueue",
    "QueueFullError",
    # dead letters
    "DeadLetter",
    "DeadLetterEntry",
    "DeadLetterHandler",
    "DeadLetterPolicy",
    "DeadLetterQueue",
    "DeadLetterReason",
    "RetryableDeadLetterQueue",
    # handlers
    "AsyncMessageHandler",
    "BatchMessageHandler",
    "HandlerChain",
    "MessageHandler",
    "RetryPolicy",
    "RetryingHandler",
    "TimeoutHandler",
    # routing
    "ContentRouter",
    "DirectRouter",
    "PatternRouter",
    "Route",
    "Router",
    "RouterChain",
    "TopicRouter",
]
