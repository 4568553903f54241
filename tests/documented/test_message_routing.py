"""Core Components, 4. Message Routing."""

from __future__ import annotations

from game_tasks.messaging import InMemoryQueue, Message, MessageQueue, TopicRouter


async def test_a_message_is_put_into_the_queue_of_every_route_that_matches() -> None:
    game_queue, player_queue = InMemoryQueue("games"), InMemoryQueue("players")
    message = Message(payload={"event": "game_started"})

    # Create router
    router = TopicRouter("game_router")

    # Register queues
    router.register_queue("game_events", game_queue)
    router.register_queue("player_events", player_queue)

    # Define routes
    router.register_route("game.*", "game_events")
    router.register_route("player.*.joined", "player_events")
    router.register_route("#", "all_events")  # Catch-all

    # Route message
    destinations = await router.route(message, "game.started")

    assert destinations == ["game_events", "all_events"]
    assert [await queue.size() for queue in (game_queue, player_queue, MessageQueue("all_events"))] == [1, 0, 1]
    assert router.stats()["by_destination"] == {"game_events": 1, "all_events": 1}
    assert await router.route(message, "player.p1.joined") == ["player_events", "all_events"]
    assert await player_queue.size() == 1
