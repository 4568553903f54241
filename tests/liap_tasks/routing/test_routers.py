"""Which queue a key goes to, by every kind of router; and what happens when there is none."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Queue

from liap_tasks import RoutingError
from liap_tasks.routing import (
    ContentRouter,
    DirectRouter,
    PatternRouter,
    RoutedMessage,
    Router,
    RouterChain,
    TopicRouter,
)


def message(key: str, payload: Any = None, **more: Any) -> RoutedMessage:
    return RoutedMessage(key=key, payload=payload, **more)


def documented_router() -> TopicRouter:
    router = TopicRouter("game_router")
    router.register_route("game.*", "game_events")
    router.register_route("player.*.joined", "player_events")
    router.register_route("#", "all_events", priority=-1)
    return router


@pytest.mark.parametrize(
    ("key", "call", "event"),
    [
        ("game.started", "game_events", ["game_events", "all_events"]),
        ("game.a.b", "all_events", ["all_events"]),
        ("player.p1.joined", "player_events", ["player_events", "all_events"]),
        ("", "all_events", ["all_events"]),
    ],
)
def test_a_call_goes_to_one_queue_and_an_event_to_all(key: str, call: str, event: list[str]) -> None:
    router = documented_router()
    assert router.destination(message(key)) == call
    assert router.destinations(message(key)) == event


def test_priority_decides_then_the_order_of_registration() -> None:
    router = TopicRouter()
    router.register_route("#", "first")
    router.register_route("a.*", "second")
    router.register_route("a.b", "urgent", priority=5)
    assert router.destination(message("a.b")) == "urgent"
    assert router.destination(message("a.c")) == "first"
    assert [route.queue for route in router.routes()] == ["urgent", "first", "second"]
    assert router.destinations(message("a.b")) == ["urgent", "first", "second"]


@pytest.mark.parametrize(
    ("router", "pattern", "matching", "other"),
    [
        (PatternRouter(), "game_*.play?", ["game_a.b.plays"], ["game_a.play", "xgame_.plays", "GAME_.plays"]),
        (PatternRouter(syntax="regex"), r"game\.(started|ended)", ["game.ended"], ["game.ended2", "a.game.ended"]),
        (DirectRouter(), "game.*", ["game.*"], ["game.started"]),
    ],
)
def test_each_kind_of_pattern_has_its_meaning(
    router: Router, pattern: str, matching: list[str], other: list[str]
) -> None:
    router.register_route(pattern, "there")
    assert [router.destination(message(key)) for key in matching] == ["there"] * len(matching)
    for key in other:
        with pytest.raises(RoutingError):
            router.destination(message(key))


def test_filters_see_payload_headers_and_priority() -> None:
    router = ContentRouter()
    router.register_route("large", "large", lambda m: m.payload["stake"] > 100)
    router.register_route("beta", "beta", lambda m: m.headers.get("ring") == "beta")
    router.register_route("urgent", "urgent", lambda m: (m.priority or 0) >= 7, priority=1)
    assert router.destination(message("any", {"stake": 200})) == "large"
    assert router.destination(message("any", {"stake": 1}, headers={"ring": "beta"})) == "beta"
    assert router.destination(message("any", {"stake": 200}, priority=9)) == "urgent"
    assert router.destinations(message("any", {"stake": 200}, priority=9)) == ["urgent", "large"]


def test_a_filter_belongs_to_its_route() -> None:
    router = TopicRouter()
    router.register_route("bet.*", "large", filter=lambda m: m.payload > 100)
    router.register_route("bet.*", "small")
    assert [router.destination(message("bet.placed", stake)) for stake in (500, 5)] == ["large", "small"]


def test_a_content_route_without_a_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a filter"):
        ContentRouter().register_route("all", "all")


def test_a_broken_expression_is_refused_when_registered() -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        PatternRouter(syntax="regex").register_route("(", "q")
    with pytest.raises(ValueError, match="syntax"):
        PatternRouter(syntax="sql")  # type: ignore[arg-type]  # that is the point


def test_the_unroutable_key_is_named_with_what_comes_nearest() -> None:
    router = TopicRouter("games")
    for pattern in ("game.started", "game.ended", "player.*.joined", "zzz"):
        router.register_route(pattern, "q")
    with pytest.raises(RoutingError, match=r"'games' has no route for 'game.start'; nearest: game.started") as caught:
        router.destination(message("game.start"))
    assert (caught.value.router, caught.value.key) == ("games", "game.start")
    assert caught.value.nearest[0] == "game.started"
    assert "zzz" not in caught.value.nearest
    with pytest.raises(RoutingError):
        router.destinations(message("game.start"))
    assert router.stats() == {"routed": 0, "unroutable": 2, "by_destination": {}}


def test_an_alternate_queue_takes_the_unroutable() -> None:
    router = TopicRouter(alternate="rest")
    router.register_route("a", "a")
    assert router.destination(message("b")) == "rest"
    assert router.destinations(message("b")) == ["rest"]
    assert router.stats() == {"routed": 2, "unroutable": 0, "by_destination": {"rest": 2}}
    assert router.queue_names() == ["a", "rest"]


def test_routes_can_be_taken_back() -> None:
    router = TopicRouter(alternate="rest")
    router.register_route("a.*", "one")
    router.register_route("a.*", "two")
    assert router.unregister_route("a.*", "one") == 1
    assert router.destination(message("a.b")) == "two"
    assert router.unregister_route("a.*") == 1
    assert router.unregister_route("a.*") == 0
    assert router.destination(message("a.b")) == "rest"


KEYS = st.lists(st.sampled_from(["a", "b", "*", "#", ""]), max_size=3).map(".".join)


@given(st.lists(st.tuples(KEYS, st.sampled_from("xyz"), st.integers(-2, 2)), max_size=12), st.data())
def test_any_history_of_routes_is_as_if_only_the_left_ones_had_been_registered(
    added: list[tuple[str, str, int]], data: Any
) -> None:
    router = TopicRouter()
    for pattern, queue, priority in added:
        router.register_route(pattern, queue, priority=priority)
    left = list(added)
    for pattern, queue, _ in data.draw(st.lists(st.sampled_from(added), max_size=4)) if added else []:
        router.unregister_route(pattern, queue)
        left = [route for route in left if route[:2] != (pattern, queue)]
    fresh = TopicRouter()
    for pattern, queue, priority in left:
        fresh.register_route(pattern, queue, priority=priority)
    key = message(data.draw(KEYS))
    assert router.find_all(key) == fresh.find_all(key)
    assert router.find(key) == fresh.find(key)


def test_in_a_chain_the_first_router_that_knows_decides() -> None:
    direct, topic = DirectRouter("direct"), TopicRouter("topic")
    direct.register_route("game.started", "starts")
    topic.register_route("game.*", "games")
    chain = RouterChain(direct, topic)
    assert chain.destination(message("game.started")) == "starts"
    assert chain.destination(message("game.ended")) == "games"
    assert chain.destinations(message("game.started")) == ["starts", "games"]
    with pytest.raises(RoutingError, match=r"nearest: game\.\*"):
        chain.destination(message("gam"))
    assert chain.queue_names() == ["starts", "games"]
    assert [route.queue for route in chain.matching(message("game.started"))] == ["starts", "games"]
    assert RouterChain(chain, alternate="rest").destination(message("other")) == "rest"
    with pytest.raises(TypeError, match="one of its routers"):
        chain.register_route("a", "b")
    assert chain.unregister_route("game.*") == 1
    assert [route.queue for route in chain.routes()] == ["starts"]


def test_in_a_chain_an_event_goes_to_an_alternate_only_when_no_route_of_any_router_matches() -> None:
    direct, topic = DirectRouter("direct"), TopicRouter("topic", alternate="others")
    direct.register_route("game.started", "starts")
    topic.register_route("room.*", "rooms")
    chain = RouterChain(direct, topic, alternate="nobody_s")
    assert chain.destinations(message("game.started")) == ["starts"]
    assert RouterChain(topic, direct).destinations(message("game.started")) == ["starts"]
    assert chain.destinations(message("room.left")) == ["rooms"]
    assert chain.destinations(message("gam")) == ["others"]
    assert RouterChain(direct, alternate="nobody_s").destinations(message("gam")) == ["nobody_s"]
    assert topic.stats()["by_destination"] == {"rooms": 1, "others": 1}


def test_a_chain_counts_what_it_routed_and_what_nobody_took() -> None:
    direct, topic = DirectRouter("direct"), TopicRouter("topic")
    direct.register_route("game.started", "starts")
    topic.register_route("game.*", "games")
    chain = RouterChain(direct, topic)
    chain.destination(message("game.started"))
    chain.destinations(message("game.started"))
    with pytest.raises(RoutingError):
        chain.destination(message("room.left"))
    assert chain.stats() == {"routed": 3, "unroutable": 1, "by_destination": {"starts": 2, "games": 1}}


def test_counts_are_exact_under_threads() -> None:
    router = documented_router()

    def route() -> None:
        for _ in range(500):
            router.destination(message("game.started"))

    threads = [threading.Thread(target=route) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert router.stats() == {"routed": 2000, "unroutable": 0, "by_destination": {"game_events": 2000}}


def test_task_queues_are_for_any_celery_app() -> None:
    own = Queue("own", max_length=3)
    router = TopicRouter()
    router.register_queue("own", own)
    router.register_route("a", "plain")
    assert router.task_queues() == [own, Queue("plain", routing_key="plain")]
