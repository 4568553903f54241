"""The board game Liap Tui on liap_tasks: its rules, its bots, and its events as tasks.

``python -m game_tasks play`` plays a game; ``celery -A game_tasks worker`` works for a game server.
"""

from game_tasks.application import app, game_events
from game_tasks.events import GameEvent, GameEventType
from game_tasks.history import replay_game
from game_tasks.publishing import apublish, publish, subscribe
from game_tasks.table import GameResult, play_game

__all__ = [
    "GameEvent",
    "GameEventType",
    "GameResult",
    "app",
    "game_events",
    "play_game",
    "apublish",
    "publish",
    "replay_game",
    "subscribe",
]
