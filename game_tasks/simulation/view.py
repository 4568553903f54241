"""What a simulation shows: a progress bar on a terminal, a line for every tenth of the rooms elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from game_tasks.simulation.account import Account, Claim
from game_tasks.simulation.memory import resident_bytes

__all__ = ["SimulationView", "claim_table", "milliseconds", "size"]

LINES = 10


class SimulationView:
    """Shows how far the rooms have got; use as a context manager."""

    def __init__(self, console: Console, rooms: int, account: Account) -> None:
        self._console = console
        self._rooms = rooms
        self._account = account
        self._ended = 0
        self._began = time.monotonic()
        columns = (
            TextColumn("rooms"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console) if console.is_terminal else None
        self._bar = None if self._progress is None else self._progress.add_task("rooms", total=rooms, now="")

    def __enter__(self) -> SimulationView:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def room_ended(self) -> None:
        """Take in that one more room has been played to its end."""
        self._ended += 1
        seconds = time.monotonic() - self._began
        now = (
            f"{self._account.witnessed / seconds:,.0f} events/s, latency p50 "
            f"{milliseconds(self._account.latencies.percentile(0.5))}, {size(resident_bytes())}"
        )
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=self._ended, now=now)
        elif self._ended * LINES // self._rooms > (self._ended - 1) * LINES // self._rooms:
            self._console.print(f"{self._ended} of {self._rooms} rooms after {seconds:.1f} s: {now}", highlight=False)


def claim_table(claims: list[Claim], console: Console) -> Table:
    """Return the claims and whether they hold as a table."""
    table = Table(title="account", title_justify="left", box=box.ROUNDED if console.is_terminal else box.ASCII)
    for column in ("claim", "holds", "figures"):
        table.add_column(column)
    for claim in claims:
        table.add_row(claim.name, "yes" if claim.holds else "NO", claim.detail)
    return table


def milliseconds(seconds: float) -> str:
    """Return a short time as text."""
    return f"{seconds * 1000:.2f} ms"


def size(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e6:,.0f} MB"
