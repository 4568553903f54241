"""Routing: which queue a task call goes to, and which queues an event goes to.

A router maps keys (a task's name, an event's type) to queues by patterns. It is an entry of Celery's ``task_routes``::

    router = TopicRouter()
    router.register_route("game.*", "game_events")
    router.register_route("player.*.joined", "player_events")
    app = create_app(changes={"task_routes": [router]})

A call goes to exactly one queue, an event to every queue that matches.
"""

from liap_tasks.routing.chain import RouterChain
from liap_tasks.routing.message import RoutedMessage
from liap_tasks.routing.router import Route, Router
from liap_tasks.routing.routers import ContentRouter, DirectRouter, PatternRouter, TopicRouter

__all__ = [
    "ContentRouter",
    "DirectRouter",
    "PatternRouter",
    "Route",
    "RoutedMessage",
    "Router",
    "RouterChain",
    "TopicRouter",
]
