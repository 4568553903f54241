"""Messages and queues as objects, for programs that take messages by themselves.

::

    queue = InMemoryQueue("game_events")
    await queue.enqueue(Message({"event": "game_started"}, priority=MessagePriority.HIGH))
    message = await queue.dequeue(timeout=5.0)
    await queue.acknowledge(message.metadata.message_id)

The names are those of the message-queue document. Behind them are the queues of the broker, with the rules that tasks
have: bounds, time to live, delay, priority, dead letters.
"""

from liap_tasks.handlers import HandlerChain
from liap_tasks.messaging.batch_handler import BatchMessageHandler
from liap_tasks.messaging.dead_letter_entry import DeadLetterEntry
from liap_tasks.messaging.dead_letter_handler import DeadLetterHandler
from liap_tasks.messaging.dead_letter_queue import DeadLetterQueue
from liap_tasks.messaging.handlers import AsyncMessageHandler, MessageHandler
from liap_tasks.messaging.in_memory import BoundedInMemoryQueue, InMemoryQueue, PriorityInMemoryQueue
from liap_tasks.messaging.message import Message, MessageMetadata
from liap_tasks.messaging.queues import MessageQueue, OverflowStrategy
from liap_tasks.messaging.retryable import RetryableDeadLetterQueue
from liap_tasks.messaging.wrappers import RetryingHandler, TimeoutHandler
from liap_tasks.policies import (
    DeadLetter,
    DeadLetterPolicy,
    DeadLetterReason,
    DeliveryOptions,
    MessagePriority,
    RetryPolicy,
)
from liap_tasks.routing import ContentRouter, DirectRouter, PatternRouter, Route, Router, RouterChain, TopicRouter
from transports import QueueFullError

__all__ = [
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
