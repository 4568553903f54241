"""The game's Celery app and its exchange of events.

``celery -A game_tasks worker`` runs everything; the modules named in ``include`` are imported when the worker starts.
"""

from __future__ import annotations

from liap_tasks import create_app
from liap_tasks.events import EventExchange

__all__ = ["app", "game_events"]

app = create_app(
    main="game_tasks",
    include=["game_tasks.bot_tasks", "game_tasks.housekeeping", "game_tasks.subscribers"],
    # People wait for bots: a worker may be started for them alone (celery -A game_tasks worker -Q bot_moves).
    changes={
        "task_routes": {
            "game_tasks.bot.*": {"queue": "bot_moves"},
            "game_tasks.housekeeping.*": {"queue": "housekeeping"},
        }
    },
)

game_events = EventExchange(app, "game_events")
