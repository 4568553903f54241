"""Who wants to know what happens in the game: each a task with its own queue, retries and dead letters."""

from __future__ import annotations

from celery.utils.log import get_task_logger

from game_tasks.archive import default_archive
from game_tasks.events import GameEvent, GameEventType
from game_tasks.housekeeping import archive_game, clean_up_room
from game_tasks.publishing import subscribe
from liap_tasks import BatchItem, BatchTask, MessagePriority, RetryPolicy

__all__ = ["end_of_game", "lobby", "record", "scoreboard"]

logger = get_task_logger(__name__)

ROOM_KEPT_SECONDS = 3600.0
RECORD_SECONDS = 0.04  # a larger batch computes for longer, and events of the same process wait for it


@subscribe("room.*", "player.*", "game.started", name="game_tasks.lobby")
def lobby(event: GameEvent) -> None:
    """Tell the lobby who comes, goes and plays; a closed room is cleaned up an hour later."""
    logger.info("room %s: %s %s", event.room_id, event.event_type.value, event.player_id or "")
    if event.event_type is GameEventType.ROOM_CLOSED and event.room_id is not None:
        clean_up_room.apply_async((event.room_id,), countdown=ROOM_KEPT_SECONDS)


@subscribe("turn.ended", "state.changed", name="game_tasks.scoreboard")
def scoreboard(event: GameEvent) -> dict[str, int]:
    """Show the piles of the round, or the points of the game."""
    shown = event.data.get("taken") or event.data.get("scores") or {}
    logger.info("room %s: %s", event.room_id, shown)
    return {str(player): int(str(points)) for player, points in dict(shown).items()} if isinstance(shown, dict) else {}


@subscribe("game.ended", name="game_tasks.end_of_game", priority=MessagePriority.HIGH)
def end_of_game(event: GameEvent) -> None:
    """Have the finished game archived."""
    archive_game.delay(event)


# The last one: who waits in the same process for an event has it first.
@subscribe(
    "#",
    name="game_tasks.record",
    ordered=False,  # the sequence number is stored, too
    base=BatchTask,
    item_model=GameEvent,
    batch_timeout=RECORD_SECONDS,
    retry_policy=RetryPolicy(max_retries=5, initial_delay=0.1),
)
def record(items: list[BatchItem]) -> None:
    """Keep every event for replay, each once."""
    default_archive().store_events(item.payload for item in items)
