"""A router puts messages into queue objects."""

from __future__ import annotations

import pytest
from kombu import Queue

from liap_tasks import RoutingError
from liap_tasks.messaging import (
    BoundedInMemoryQueue,
    ContentRouter,
    DeliveryOptions,
    DirectRouter,
    InMemoryQueue,
    Message,
    MessagePriority,
    QueueFullError,
    RouterChain,
    TopicRouter,
)


async def test_filters_see_payload_headers_and_priority() -> None:
    router, queue = ContentRouter(), InMemoryQueue("urgent")
    router.register_queue("urgent", queue)
    router.register_route("high stakes", "urgent", filter=lambda m: m.payload["bet"] > 9 and m.headers["vip"])
    router.register_route("critical", "urgent", filter=lambda m: (m.priority or 0) >= MessagePriority.CRITICAL)

    assert await router.route(Message({"bet": 10}, headers={"vip": True})) == ["urgent"]
    assert await router.route(Message({"bet": 1}, headers={"vip": True}, priority=9)) == ["urgent"]
    with pytest.raises(RoutingError):
        await router.route(Message({"bet": 1}, headers={"vip": True}))

    assert await queue.size() == 2
    assert router.stats() == {"routed": 2, "unroutable": 1, "by_destination": {"urgent": 2}}


async def test_delivery_options_hold_for_every_queue() -> None:
    router, queue = DirectRouter(), InMemoryQueue("q")
    router.register_queue("q", queue)
    router.register_route("k", "q")
    await router.route(Message(1), "k", DeliveryOptions(delay=60))
    assert (await queue.size(), queue.get_stats()["delayed"]) == (0, 1)


async def test_a_full_queue_is_told_and_the_others_have_the_message() -> None:
    router = TopicRouter()
    full, free = BoundedInMemoryQueue("full", max_size=1), InMemoryQueue("free")
    for queue in (full, free):
        router.register_queue(queue.name, queue)
        router.register_route("#", queue.name)
    await full.enqueue(Message("fills it"))

    with pytest.raises(QueueFullError, match="'full'"):
        await router.route(Message("m"), "a.b")

    assert [message.payload for message in await free.peek()] == ["m"]


async def test_a_chain_knows_the_queue_objects_of_its_routers() -> None:
    inner, queue = TopicRouter(), BoundedInMemoryQueue("q", max_size=3)
    inner.register_queue("events", queue)
    inner.register_route("game.*", "events")
    assert await RouterChain(DirectRouter(), inner).route(Message("m"), "game.started") == ["events"]
    assert await queue.size() == 1


async def test_a_declared_queue_is_opened_by_its_own_name() -> None:
    router = DirectRouter()
    router.register_queue("games", Queue("physical_games"))
    router.register_route("k", "games")
    assert await router.route(Message(1), "k") == ["games"]
    assert await InMemoryQueue("physical_games").size() == 1


async def test_an_unregistered_route_takes_no_more_messages() -> None:
    router = TopicRouter()
    router.register_route("a", "first")
    router.register_route("#", "rest")
    assert router.unregister_route("a") == 1
    assert await router.route(Message("m"), "a") == ["rest"]
    assert [route.pattern for route in router.routes()] == ["#"]


def test_a_registered_queue_object_says_how_the_queue_is_declared() -> None:
    router, queue = TopicRouter(), BoundedInMemoryQueue("q", max_size=3)
    router.register_queue("q", queue)
    declared = router.declared_queue("q")
    assert declared is queue.declaration
    assert declared.queue_arguments is not None
    assert declared.queue_arguments["x-max-length"] == 3
