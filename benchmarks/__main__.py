"""``python -m benchmarks [--quick] [--json FILE]``: one table for our transports and kombu's stock ``memory://``.

Every figure is the median of several takes, the transports taking turns in one process. Machines are noisy: read the
ratios. What each row counts: see the module of its section. The floor: of the 60 to 80 microseconds that a
small task costs a solo worker, all but about ten are Celery's own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import celery
import kombu
from rich.console import Console
from rich.table import Table

from benchmarks import (
    async_side,
    batch_side,
    broker_side,
    dead_letter_side,
    engine_side,
    event_side,
    journal_side,
    peer_side,
    replay_side,
    routing_side,
)
from benchmarks.celery_side import Bench
from benchmarks.measure import Figure, interleaved

# A section of its own for each thing that is measured without a peer: name, title, its rows(scale, repeat).
SECTIONS: tuple[tuple[str, str, Callable[[float, int], list[Figure]]], ...] = (
    ("engine", "engine alone, one thread", engine_side.rows),
    ("journal", "the journal of a served broker, one thread", journal_side.rows),
    ("broker", "the served broker, one client", broker_side.rows),
    ("routing", "routing, one thread", routing_side.rows),
    ("events", "events, publisher and subscribers in one process", event_side.rows),
    ("async", "the asyncio pool, one process", async_side.rows),
    ("dead_letters", "keeping dead letters in SQLite, one thread", dead_letter_side.rows),
    ("batches", "a threads worker with empty handlers", batch_side.rows),
    ("replay", "sending dead letters back, one thread", replay_side.rows),
)

PEERS = "peers"
STOCK = "memory"
COLUMNS = {
    "liap-memory": ("liap-memory:///bench", False),
    "liap-priority": ("liap-priority:///bench", False),
    "liap_tasks": ("liap-memory:///bench", True),
    STOCK: ("memory://", False),
}
LABELS = {
    "liap-memory": "Celery on `liap-memory://`",
    "liap-priority": "Celery on `liap-priority://`",
    "liap_tasks": "`liap_tasks` on `liap-memory://`",
    STOCK: "Celery on `memory://`",
}


Markdown = tuple[list[str], list[list[str]]]


@dataclass
class Row:
    """One line of the table. figures: by column of COLUMNS. goal: what should be reached. reached: was it."""

    name: str
    figures: dict[str, float]
    unit: str
    goal: str = ""
    reached: bool | None = None
    less_is_better: bool = False

    def times_better(self, name: str) -> float:
        """Return how many times better than stock a column is."""
        ratio = self.figures[name] / self.figures[STOCK]
        return 1 / ratio if self.less_is_better else ratio


def celery_rows(scale: float, repeat: int) -> list[Row]:
    """Measure what a Celery user sees."""

    def each(take: Callable[[Bench], float], *, stock: Callable[[Bench], float] | None = None) -> dict[str, float]:
        def one(name: str) -> Callable[[], float]:
            url, ours = COLUMNS[name]
            chosen = stock if name == STOCK and stock is not None else take
            return lambda: chosen(Bench(url, ours=ours))

        return interleaved(repeat, {name: one(name) for name in COLUMNS})

    many = int(5000 * scale)
    publish = each(lambda bench: bench.publish_rate(many))
    solo = each(lambda bench: bench.drain_rate(many, "solo", 1))
    # The stock transport sleeps a second whenever the prefetch window (16 messages) is full.
    threads = each(
        lambda bench: bench.drain_rate(many, "threads", 4), stock=lambda bench: bench.drain_rate(32, "threads", 4)
    )
    rounds = int(300 * scale)
    p50: dict[str, float] = {}
    p99: dict[str, float] = {}
    for name, (url, ours) in COLUMNS.items():
        p50[name], p99[name] = (
            1000 * value for value in Bench(url, ours=ours).latencies(3 if name == STOCK else rounds)
        )
    memory = each(lambda bench: bench.memory(int(10_000 * scale)) * 10_000 / 1e6)

    rows = [
        Row("publishes by .delay()", publish, "/s"),
        Row("drained, solo worker", solo, "tasks/s", "1.3 x stock"),
        Row("drained, threads worker (4)", threads, "tasks/s", "8 x stock"),
        Row("idle latency p50", p50, "ms", "at most 1 ms", p50["liap_tasks"] <= 1.0, less_is_better=True),
        Row("idle latency p99", p99, "ms", less_is_better=True),
        Row("memory of 10,000 queued messages", memory, "MB", less_is_better=True),
    ]
    rows[1].reached = rows[1].times_better("liap_tasks") >= 1.3
    rows[2].reached = rows[2].times_better("liap_tasks") >= 8
    return rows


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _mark(reached: bool | None) -> str:
    return {True: "yes", False: "no", None: ""}[reached]


def celery_table(rows: list[Row]) -> Markdown:
    """Return the comparison with stock as header and lines."""
    head = ["(times better than stock)", *LABELS.values(), "goal", "reached by `liap_tasks`"]
    lines = []
    for row in rows:
        figures = [
            f"{_number(row.figures[name])} {row.unit}"
            + ("" if name == STOCK else f" ({_number(row.times_better(name))} x)")
            for name in COLUMNS
        ]
        lines.append([row.name, *figures, row.goal, _mark(row.reached)])
    return head, lines


def show(console: Console, table: Markdown, caption: str) -> None:
    """Print a table, as Markdown when the output is not a terminal."""
    head, lines = table
    if console.is_terminal:
        drawn = Table(*head, caption=caption)
        for line in lines:
            drawn.add_row(*line)
        console.print(drawn)
        return
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    print(f"\n({caption})\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: small numbers, one take")
    parser.add_argument(
        "--only", choices=["celery", PEERS, *(name for name, _, _ in SECTIONS)], help="just this section"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    scale, repeat = (0.02, 1) if chosen.quick else (1.0, 3)
    console = Console()
    versions = f"celery {celery.__version__}, kombu {kombu.__version__}"
    caption = f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    taken: dict[str, list[dict[str, Any]]] = {}
    if chosen.only in (None, "celery"):
        rows = celery_rows(scale, repeat)
        taken["celery"] = [asdict(row) for row in rows]
        show(console, celery_table(rows), caption)
    # Minutes of real processes: not for a smoke test.
    if chosen.only == PEERS or (chosen.only is None and not chosen.quick):
        peers = peer_side.measure(scale, repeat)
        taken[PEERS] = [{"peer": name, "figures": str(figures)} for name, figures in peers.items()]
        show(console, peer_side.table(peers), caption)
    for name, title, measure in SECTIONS:
        if chosen.only in (None, name):
            figures = measure(scale, repeat)
            taken[name] = [asdict(figure) for figure in figures]
            lines = [[one.name, one.figure, one.goal, _mark(one.reached)] for one in figures]
            show(console, ([title, "figure", "goal", "reached"], lines), caption)
    if chosen.json:
        chosen.json.write_text(json.dumps(taken, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
