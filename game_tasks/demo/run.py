"""The demo: one full game, every move a task, every event delivered to its subscribers, nothing installed.

The table runs in this thread; the worker and the broker run in threads of the same process. Two subscribers go wrong on
purpose (see faults.py).
"""

from __future__ import annotations

import gc
import os
import random
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

from rich.console import Console

from game_tasks.application import app, game_events
from game_tasks.archive import default_archive
from game_tasks.bot_tasks import ask_bot
from game_tasks.demo import faults
from game_tasks.demo.promptness import promptly
from game_tasks.demo.tally import Tally
from game_tasks.demo.view import GameView, dead_letter_table, queue_table
from game_tasks.events import GameEvent
from game_tasks.publishing import publish
from game_tasks.table import GameResult, play_game
from liap_tasks import EmbeddedWorker, dead_letters
from liap_tasks.configuration import broker_feature
from liap_tasks.statistics import queue_statistics

__all__ = ["play"]

DELIVERY_SECONDS = 30.0
FAULTS = (faults.broken_commentator, faults.sleepy_spectator)


def play(seed: int, console: Console, *, concurrency: int = 4, pace: float = 0.0) -> bool:
    """Play the game of ``seed`` and show it; True when every event reached every subscriber exactly once.

    pace: seconds that the table pauses after each event. At 0 it publishes as fast as it can, and what is handled in
    the same process, under the same interpreter lock, waits for it.
    """
    with tempfile.TemporaryDirectory(prefix="liap-demo-") as folder:
        os.environ.setdefault("GAME_ARCHIVE_PATH", str(Path(folder) / "games.sqlite3"))
        began = time.monotonic()
        tally = Tally()
        view = GameView(console, partial(queue_statistics, app))
        # All is opened here, and kept open for the whole game: the first event waits for none of it.
        prompt = promptly(alone=broker_feature(app.conf.broker_url, "in_process"))
        with prompt, closing(default_archive()), tally, EmbeddedWorker(app, concurrency=concurrency):
            app.connect()
            game_events.declare()
            gc.collect()
            gc.freeze()  # looking through all that has been imported would hold up an event for 50 ms
            with view:
                result = _play_at_the_table(seed, tally, view, pace)
            complete = tally.wait(DELIVERY_SECONDS)
            seconds = time.monotonic() - began
            statistics = queue_statistics(app)
            letters = dead_letters.peek(app)
    _show_result(console, result)
    console.print(queue_table(statistics, console))
    console.print(dead_letter_table(letters, console))
    done, dead = sum(tally.done.values()), sum(tally.dead.values())
    console.print(
        f"events published {tally.published} = events handled {tally.events_handled}; deliveries to subscribers "
        f"{len(tally.expected)} = handled {tally.handled}, twice {tally.twice}",
        highlight=False,
    )
    console.print(
        f"tasks {tally.tasks}: {done} done, {dead} dead letters; retries {sum(tally.retried.values())}", highlight=False
    )
    latencies = tally.latencies
    console.print(
        f"from publish to handler: p50 {latencies.percentile(0.5) * 1000:.2f} ms, "
        f"p99 {latencies.percentile(0.99) * 1000:.2f} ms",
        highlight=False,
    )
    console.print(f"took {seconds:.1f} s with seed {seed}", highlight=False)
    return complete and tally.twice == 0


def _play_at_the_table(seed: int, tally: Tally, view: GameView, pace: float) -> GameResult:
    chance = random.Random(seed)

    def tell(event: GameEvent) -> None:
        view.show(event)  # before it is published: who handles it has the interpreter for itself then
        tally.publish(event)
        publish(event)
        time.sleep(pace)

    return play_game(
        seed,
        partial(ask_bot, seed=seed),
        on_event=tell,
        now=lambda: datetime.now(UTC),
        new_id=lambda: UUID(int=chance.getrandbits(128), version=4),
    )


def _show_result(console: Console, result: GameResult) -> None:
    scores = ", ".join(f"{player} {points}" for player, points in result.scores.items())
    console.print(f"\nfinal scores: {scores}", highlight=False)
    console.print(
        f"won by {' and '.join(result.winners)} after {len(result.rounds)} rounds and {result.moves} moves, each "
        "computed by a Celery task",
        highlight=False,
    )
