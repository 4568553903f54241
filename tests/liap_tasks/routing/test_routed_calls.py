"""Routers in Celery's ``task_routes``: calls arrive where they are sent, workers consume every routed queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Exchange, Queue

from liap_tasks import EmbeddedWorker, LiapApp, RetryPolicy, RoutingError
from liap_tasks.messaging import InMemoryQueue
from liap_tasks.routing import ContentRouter, RouterChain, TopicRouter
from tests.liap_tasks.conftest import Outcomes

Stats = Callable[..., dict[str, float]]


def test_a_call_waits_in_the_queue_of_its_route_and_a_worker_finds_it(
    app: LiapApp, stats: Stats, outcomes: Outcomes
) -> None:
    router = TopicRouter()
    router.register_route("bots.#", "bots")
    router.register_route("#", "rest", priority=-1)
    app.conf.task_routes = [router]

    @app.task(shared=False, name="bots.play")
    def play() -> None: ...

    @app.task(shared=False, name="tidy")
    def tidy() -> None: ...

    play.delay()
    tidy.delay()
    assert [stats(app, name)["ready"] for name in ("bots", "rest")] == [1, 1]
    with EmbeddedWorker(app):
        assert sorted(outcomes.states(2)) == ["SUCCESS", "SUCCESS"]
    assert router.stats()["by_destination"] == {"bots": 1, "rest": 1}


def test_routed_queues_have_the_settings_bounds_unless_declared_otherwise(app: LiapApp) -> None:
    router = TopicRouter()
    router.register_queue("own", Queue("own", Exchange("own"), routing_key="own", max_length=3))
    router.register_route("a", "own")
    router.register_route("b", "bounded")
    app.conf.task_routes = [router]
    queues = app.amqp.queues
    assert queues["own"].max_length == 3
    assert queues["bounded"].queue_arguments["x-max-length"] == 10_000
    assert {"own", "bounded", "liap_tasks"} <= queues.consume_from.keys()


@pytest.mark.parametrize("chained", [False, True])
def test_a_call_goes_to_the_queue_itself_when_routes_call_it_by_another_name(
    new_app: Callable[..., LiapApp], outcomes: Outcomes, chained: bool
) -> None:
    app = new_app()
    router = TopicRouter(alternate="of_last_resort")
    router.register_queue("games", InMemoryQueue("physical_games", url=app.conf.broker_url))
    router.register_queue("rooms", Queue("physical_rooms", Exchange("rooms"), routing_key="rooms"))
    router.register_queue("of_last_resort", Queue("physical_rest", Exchange("rest"), routing_key="rest"))
    router.register_route("game.*", "games")
    router.register_route("room.*", "rooms")
    app.conf.task_routes = [RouterChain(router) if chained else router]

    def done() -> None: ...

    with EmbeddedWorker(app):
        for name in ("game.play", "room.open", "bot.think"):
            app.task(shared=False, name=name)(done).delay()
        assert outcomes.states(3) == ["SUCCESS"] * 3
    assert not {"games", "rooms", "of_last_resort"} & app.amqp.queues.keys()
    assert {"physical_games", "physical_rooms", "physical_rest"} <= app.amqp.queues.consume_from.keys()


def test_an_unroutable_call_is_refused_where_it_is_made(app: LiapApp) -> None:
    router = TopicRouter("games")
    router.register_route("game.*", "games")
    app.conf.task_routes = [router]

    @app.task(shared=False, name="gama.play")
    def play() -> None: ...

    with pytest.raises(RoutingError, match=r"nearest: game"):
        play.delay()
    play.apply_async(queue="games")  # placed by its caller


def test_a_retry_stays_in_the_queue_it_came_from(app: LiapApp, stats: Stats, outcomes: Outcomes) -> None:
    router = ContentRouter()
    router.register_route("first", "first", lambda m: m.kwargs.get("stake", 0) > 100)
    router.register_route("other", "other", lambda m: True)
    app.conf.task_routes = [RouterChain(router)]

    @app.task(shared=False, bind=True, name="tests.bet", retry_policy=RetryPolicy(max_retries=1, initial_delay=0.001))
    def bet(self: Any, stake: int) -> None:
        if self.attempt == 1:
            raise ValueError(stake)

    with EmbeddedWorker(app, pool="solo"):
        bet.delay(stake=500)
        assert outcomes.states(2) == ["RETRY", "SUCCESS"]
    assert stats(app, "first")["acknowledged"] == 2
    assert router.stats() == {"routed": 1, "unroutable": 0, "by_destination": {"first": 1}}


def test_celery_s_own_tasks_are_left_alone(app: LiapApp) -> None:
    app.conf.task_routes = [TopicRouter()]
    app.send_task("celery.backend_cleanup")


def test_a_router_serves_a_plain_celery_app() -> None:
    router = TopicRouter()
    router.register_route("bots.#", "bots")
    app = Celery("plain", broker=f"liap-memory:///{uuid4().hex}", set_as_current=False)
    app.conf.task_queues = router.task_queues()
    app.conf.task_routes = (router,)
    app.send_task("bots.play")
    with app.connection_for_read() as connection, connection.channel() as channel:
        assert channel.queue_stats("bots")["bots"]["ready"] == 1
    app.close()
