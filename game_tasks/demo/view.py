"""What the demo shows while it runs: a live table on a terminal, a line per round elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from game_tasks.events import GameEvent, GameEventType

__all__ = ["GameView", "dead_letter_table", "queue_table"]

REPLY_QUEUE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # Celery names them with a UUID
Statistics = Mapping[str, Mapping[str, float]]
QUEUE_COLUMNS = (
    "enqueued",
    "delivered",
    "acknowledged",
    "requeued",
    "expired",
    "dead_lettered",
    "ready",
    "unacked",
    "delayed",
)


class GameView:
    """Shows the rounds of one game. Give it every event; use as a context manager around the game."""

    def __init__(self, console: Console, statistics: Callable[[], Statistics]) -> None:
        self._console = console
        self._statistics = statistics
        self._rounds: list[tuple[str, ...]] = []
        self._players: list[str] = []
        self._now = "dealing"
        self._live = Live(self, console=console, refresh_per_second=10) if console.is_terminal else None

    def __enter__(self) -> GameView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: GameEvent) -> None:
        """Take in one event."""
        data: dict[str, Any] = event.data
        if event.event_type is GameEventType.GAME_STARTED:
            self._players = list(data["players"])
        elif event.event_type is GameEventType.TURN_STARTED:
            self._now = f"round {data['round']}, turn {data['turn']}"
        elif event.event_type is GameEventType.STATE_CHANGED and data["phase"] == "scored":
            self._add_round(data)

    def _add_round(self, data: dict[str, Any]) -> None:
        cells = [
            f"{data['declared'][name]}/{data['taken'][name]}  {data['points'][name]:+d}  = {data['scores'][name]}"
            for name in self._players
        ]
        multiplier = f" x{data['multiplier']}" if data["multiplier"] > 1 else ""
        row = (f"{data['round']}{multiplier}", *cells)
        self._rounds.append(row)
        if self._live is None:
            if len(self._rounds) == 1:
                heading = "".join(f"{name:<18}" for name in self._players).rstrip()
                self._console.print(f"{'round':<9}{heading}", highlight=False)
            self._console.print(f"{row[0]:<9}" + "".join(f"{cell:<18}" for cell in cells).rstrip(), highlight=False)

    def __rich__(self) -> RenderableType:
        rounds = _table("Liap Tui: declared/taken, points = score", self._console)
        rounds.add_column("round")
        for name in self._players:
            rounds.add_column(name)
        for row in self._rounds:
            rounds.add_row(*row)
        depths = _table("queues now", self._console)
        for column in ("queue", "ready", "unacked", "delayed"):
            depths.add_column(column, justify="left" if column == "queue" else "right")
        for name, numbers in shown_queues(self._statistics()).items():
            depths.add_row(name, *(f"{numbers[key]:.0f}" for key in ("ready", "unacked", "delayed")))
        return Group(rounds, Text(self._now, style="dim"), depths)


def shown_queues(statistics: Statistics) -> dict[str, Mapping[str, float]]:
    """Return the queues a person wants to see: not those of Celery's own remote control and replies."""
    return {
        name: numbers
        for name, numbers in sorted(statistics.items())
        if not name.endswith(".celery.pidbox") and not REPLY_QUEUE.fullmatch(name)
    }


def queue_table(statistics: Statistics, console: Console) -> Table:
    """Return the statistics of the queues as a table."""
    table = _table("queues", console)
    table.add_column("queue", no_wrap=True)
    for column in QUEUE_COLUMNS:
        table.add_column(column.replace("_", " "), justify="right")
    for name, numbers in shown_queues(statistics).items():
        table.add_row(name, *(f"{numbers[column]:.0f}" for column in QUEUE_COLUMNS))
    return table


def dead_letter_table(letters: list[Any], console: Console) -> Table:
    """Return dead letters as a table."""
    table = _table("dead letters", console)
    for column in ("task", "reason", "attempts", "error"):
        table.add_column(column)
    for letter in letters:
        error = letter.exception or ""
        if letter.message and letter.message != f"{error}()":
            error = f"{error}: {letter.message}"
        table.add_row(letter.task, letter.reason.value, str(len(letter.attempts)), error)
    return table


def _table(title: str, console: Console) -> Table:
    """Return an empty table: with lines on a terminal, plain text elsewhere."""
    return Table(title=title, title_justify="left", box=box.ROUNDED if console.is_terminal else None, pad_edge=False)
