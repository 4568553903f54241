"""Two subscribers that go wrong, to show a retry, a timeout and dead letters. Only the demo imports them.

They do so at the end of the game: the first traceback of a process takes some 20 ms (Python reads the source files for
it), in which everything else in the process waits.
"""

from __future__ import annotations

import time

from game_tasks.events import GameEvent
from game_tasks.publishing import subscribe
from liap_tasks import RetryPolicy

__all__ = ["broken_commentator", "sleepy_spectator"]


@subscribe(
    "room.closed",
    name="game_tasks.demo.broken_commentator",
    retry_policy=RetryPolicy(max_retries=1, initial_delay=0.1, jitter=False),
)
def broken_commentator(event: GameEvent) -> None:
    """Fail, be tried again, fail again: a dead letter with reason ``retries_exhausted``."""
    raise ConnectionError(f"no microphone in room {event.room_id}")


@subscribe(
    "game.ended",
    name="game_tasks.demo.sleepy_spectator",
    timeout=0.3,
    retry_policy=RetryPolicy(max_retries=0),
)
def sleepy_spectator(event: GameEvent) -> None:
    """Run into the timeout: a dead letter with reason ``timed_out``."""
    while True:
        time.sleep(0.01)
