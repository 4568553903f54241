"""The names that readers of the message-queue document may rely on; a change here is a change for them."""

from __future__ import annotations

import inspect

import game_tasks.messaging
import liap_tasks.messaging
from liap_tasks import policies

GENERAL = {
    *("Message", "MessageMetadata", "MessagePriority", "DeliveryOptions"),
    *("MessageQueue", "InMemoryQueue", "PriorityInMemoryQueue", "BoundedInMemoryQueue", "OverflowStrategy"),
    *("DeadLetter", "DeadLetterEntry", "DeadLetterHandler", "DeadLetterPolicy", "DeadLetterQueue"),
    *("DeadLetterReason", "RetryableDeadLetterQueue"),
    *("MessageHandler", "AsyncMessageHandler", "BatchMessageHandler", "HandlerChain"),
    *("RetryPolicy", "RetryingHandler", "TimeoutHandler"),
    *("Router", "Route", "RouterChain", "TopicRouter", "PatternRouter", "DirectRouter", "ContentRouter"),
    "QueueFullError",
}
OF_THE_GAME = {"GameEvent", "GameEventHandler", "GameEventQueue", "GameEventType", "GameTaskProcessor"}

DOCUMENTED = {
    "MessageQueue": "enqueue dequeue acknowledge reject peek size clear get_stats close",
    "DeadLetterQueue": "add retry recover inspect purge size get_stats close",
    "RetryableDeadLetterQueue": "add retry recover inspect purge size get_stats register_retry_queue cancel_retry",
    "Router": "register_queue register_route unregister_route routes route stats",
    "GameEventQueue": "publish subscribe process_events get_stats close",
    "GameEventHandler": "process_event handle can_handle",
    "GameTaskProcessor": "register_task_handler start submit_task stop",
}


def test_the_public_names_are_frozen() -> None:
    assert set(liap_tasks.messaging.__all__) == GENERAL
    assert set(game_tasks.messaging.__all__) == GENERAL | OF_THE_GAME
    for module in (liap_tasks.messaging, game_tasks.messaging):
        assert len(module.__all__) == len(set(module.__all__))
    assert all(getattr(game_tasks.messaging, name) is getattr(liap_tasks.messaging, name) for name in GENERAL)


def test_policies_and_routers_are_the_ones_that_tasks_have() -> None:
    for name in ("DeadLetterPolicy", "DeadLetterReason", "DeliveryOptions", "MessagePriority", "RetryPolicy"):
        assert getattr(liap_tasks.messaging, name) is getattr(policies, name)
    assert liap_tasks.messaging.TopicRouter is liap_tasks.routing.TopicRouter
    assert issubclass(liap_tasks.messaging.MessageMetadata, liap_tasks.MessageMetadata)


def test_every_public_class_and_documented_method_tells_what_it_does() -> None:
    undocumented = []
    for name in sorted((GENERAL | OF_THE_GAME) - {"OverflowStrategy"}):
        found = getattr(game_tasks.messaging, name)
        methods = [getattr(found, method) for method in DOCUMENTED.get(name, "").split()]
        undocumented += [repr(one) for one in (found, *methods) if not (inspect.getdoc(one) or "").strip()]
    assert undocumented == []
