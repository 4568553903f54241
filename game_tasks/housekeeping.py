"""What is done when a game or a room is over: archive the game, clean up the room. Nobody waits for these."""

from __future__ import annotations

from game_tasks.application import app
from game_tasks.archive import default_archive
from game_tasks.events import GameEvent
from liap_tasks import MessagePriority, RetryPolicy

__all__ = ["archive_game", "clean_up_room"]


@app.task(
    name="game_tasks.housekeeping.archive_game",
    priority=MessagePriority.LOW,
    retry_policy=RetryPolicy(max_retries=5, initial_delay=0.2),
)
def archive_game(ended: GameEvent) -> str | None:
    """Store how a game ended; returns its id. May run more than once for the same game."""
    default_archive().store_game(ended)
    return ended.game_id


@app.task(
    name="game_tasks.housekeeping.clean_up_room",
    priority=MessagePriority.LOW,
    retry_policy=RetryPolicy(max_retries=5, initial_delay=0.2),
)
def clean_up_room(room_id: str) -> int:
    """Delete what is kept of a closed room besides its games; returns the number of events removed."""
    return default_archive().forget_room(room_id)
