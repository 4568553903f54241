"""The simulation: rooms of bots, each played to its end, with every move a task and every event delivered as tasks.

The rooms are driven by this thread (:mod:`~game_tasks.simulation.rooms`); broker, worker and subscribers are those of
the game. Beside the game's own subscribers there is a witness of every event. At the end the account is compared with
what the worker counted and with what the archive holds.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from game_tasks.application import app, game_events
from game_tasks.archive import default_archive
from game_tasks.events import GameEvent
from game_tasks.publishing import publish, subscribe
from game_tasks.simulation.account import Account, Claim
from game_tasks.simulation.memory import peak_bytes, resident_bytes
from game_tasks.simulation.rooms import Rooms, StalledError
from game_tasks.simulation.view import SimulationView, claim_table, milliseconds, size
from liap_tasks import EmbeddedWorker, dead_letters
from liap_tasks.statistics import queue_statistics

__all__ = ["EVENTS_ON_THEIR_WAY", "simulate"]

EVENTS_ON_THEIR_WAY = 64
"""Events that may be published and not yet handled before rooms wait."""
DELIVERY_SECONDS = 120.0
LOOK_SECONDS = 0.05
WARM = 0.25
GROWTH_ALLOWED = 1.25
GROWTH_OF_POOLS = 32_000_000
"""Bytes that do not count as growth: buffers and caches that fill once."""


def simulate(
    rooms: int, console: Console, *, seed: int = 1, bots: int = 4, concurrency: int = 1, window: int = 16
) -> bool:
    """Play ``rooms`` rooms and show the account; True when every claim holds.

    concurrency: threads that run tasks; 1 runs them in the worker's own. window: rooms open at once.
    """
    with tempfile.TemporaryDirectory(prefix="liap-simulation-") as folder:
        os.environ["GAME_ARCHIVE_PATH"] = str(Path(folder) / "games.sqlite3")
        with closing(default_archive()):
            return _Simulation(rooms, console).run(seed=seed, bots=bots, concurrency=concurrency, window=window)


class _Simulation:
    def __init__(self, rooms: int, console: Console) -> None:
        self.rooms = rooms
        self.console = console
        self.account = Account()
        self.ended = 0
        self.moves = 0
        self.events = 0
        self.warm_bytes = 0
        self.failure: Exception | None = None
        app.loader.import_default_modules()
        subscribe("#", name="game_tasks.simulation.witness")(self._witness())

    def _witness(self) -> Any:
        account = self.account

        def witness(event: GameEvent) -> None:
            """See every event of every room, each room's in order."""
            account.witness(event)

        return witness

    def run(self, *, seed: int, bots: int, concurrency: int, window: int) -> bool:
        began = time.monotonic()
        pool: Any = "solo" if concurrency == 1 else "threads"
        with EmbeddedWorker(app, concurrency=concurrency, pool=pool):
            with SimulationView(self.console, self.rooms, self.account) as view:
                try:
                    self._play(
                        view,
                        Rooms(self.rooms, seed=seed, bots=bots, window=window, before_move=self._wait, tell=self._tell),
                    )
                except Exception as error:  # noqa: BLE001 - it fails the account, which is shown
                    self.failure = error
            patience = DELIVERY_SECONDS if self.failure is None else 0.0
            all_seen = self.account.wait_for_all(patience)
            counted = self._wait_for_subscribers(patience)
            seconds = time.monotonic() - began
            letters = len(dead_letters.peek(app))
            refused = sum(numbers["refused"] for numbers in queue_statistics(app).values())
        claims = self._claims(all_seen, counted, letters, refused)
        self.console.print(claim_table(claims, self.console))
        self._show_figures(seconds, window)
        return all(claim.holds for claim in claims)

    def _play(self, view: SimulationView, rooms: Rooms) -> None:
        for result in rooms.play():
            self.account.close_room(result.room_id, result.events)
            self.ended += 1
            self.moves += result.moves
            self.events += result.events
            if not self.warm_bytes and self.ended >= self.rooms * WARM:
                self.warm_bytes = resident_bytes()
            view.room_ended()

    def _tell(self, event: GameEvent) -> None:
        self.account.publish(event, game_events.subscribers(event.event_type.value))
        publish(event)

    def _wait(self) -> None:
        if not self.account.wait_for_room(EVENTS_ON_THEIR_WAY, DELIVERY_SECONDS):
            raise StalledError(f"{self.account.on_their_way} events on their way, and none arrives")

    def _wait_for_subscribers(self, patience: float) -> dict[str, int]:
        """Wait until every subscriber has had its events, ``patience`` seconds at most; return how many each has."""
        deadline = time.monotonic() + patience
        while True:
            counted = {name: app.task_statistics[name]["succeeded"] for name in self.account.expected}
            if counted == dict(self.account.expected) or time.monotonic() > deadline:
                return counted
            time.sleep(LOOK_SECONDS)

    def _claims(self, all_seen: bool, counted: dict[str, int], letters: int, refused: float) -> list[Claim]:
        account = self.account
        expected = dict(account.expected)
        stored = default_archive().count_events()
        wrong = {
            name: f"{counted.get(name, 0):,} of {count:,}"
            for name, count in expected.items()
            if counted.get(name) != count
        }
        deliveries = sum(expected.values())
        now = resident_bytes()
        problem = f"; {self.failure!r}" if self.failure is not None else ""
        return [
            Claim(
                "every room was played to its end",
                self.ended == self.rooms and self.failure is None,
                f"{self.ended:,} of {self.rooms:,} rooms, {self.moves:,} moves by bots{problem}",
            ),
            Claim(
                "no event was lost",
                all_seen and not account.gaps and account.published == self.events,
                f"{account.published:,} published, {account.witnessed:,} handled, {account.gaps} missing",
            ),
            Claim(
                "none came twice, none out of order in its room",
                not account.twice_or_late and not account.gaps,
                "; ".join(account.problems) or f"{account.twice_or_late} too late or twice",
            ),
            Claim(
                "each subscriber had each of its events once",
                not wrong,
                str(wrong) if wrong else f"{deliveries:,} deliveries to {len(expected)} subscribers",
            ),
            Claim("the archive holds each event once", stored == account.published, f"{stored:,} events stored"),
            Claim(
                "nothing failed, no queue was ever full",
                not letters and not refused,
                f"{letters} dead letters, {refused:.0f} publishes refused; at most {account.most_on_their_way} "
                "events on their way",
            ),
            Claim(
                "memory is bounded",
                now <= self.warm_bytes * GROWTH_ALLOWED + GROWTH_OF_POOLS,
                f"{size(self.warm_bytes)} after a quarter of the rooms, {size(now)} at the end, "
                f"peak {size(peak_bytes())}",
            ),
        ]

    def _show_figures(self, seconds: float, window: int) -> None:
        deliveries = sum(self.account.expected.values())
        latencies = self.account.latencies
        self.console.print(
            f"{self.rooms:,} rooms, {window} at a time, took {seconds:.1f} s: {self.account.published / seconds:,.0f} "
            f"events/s, {(deliveries + self.moves) / seconds:,.0f} tasks/s",
            highlight=False,
        )
        self.console.print(
            f"from publish to handler: p50 {milliseconds(latencies.percentile(0.5))}, "
            f"p99 {milliseconds(latencies.percentile(0.99))}; peak memory {size(peak_bytes())}",
            highlight=False,
        )
