"""How the commands speak: tables and sentences for people, one JSON document for machines, a bar for long work.

What was asked for goes to standard output; progress and remarks go to standard error, so that output can be piped. A
progress bar is drawn on a terminal only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Advance", "age", "as_text", "counts", "moment", "progress", "remark", "say_json", "say_table", "say_pairs"]

Advance = Callable[[int, int | None], None]
"""Called as work goes on, with how much of how much is done; None if nobody knows how much it is."""

WIDE = 10_000


def say_json(value: Any, *, err: bool = False) -> None:
    """Print one JSON document."""
    click.echo(as_text(value, indent=2), err=err)


def as_text(value: Any, indent: int | None = None) -> str:
    """Return a value as plain JSON: times as ISO 8601, what JSON has no word for as its text."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=_plain)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, date | time) else str(value)


def say_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: as wide as the terminal, or as wide as it needs when piped."""
    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(_printable(cell) for cell in row))
    _console().print(table)


def say_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line; values of several lines stand below their name."""
    known = list(pairs)
    width = max(len(name) for name, _ in known)
    for name, value in known:
        if "\n" in value:
            click.echo(f"{name}:")
            click.echo("".join(f"    {_printable(line)}\n" for line in value.rstrip("\n").split("\n")), nl=False)
        else:
            click.echo(f"{name.ljust(width)}  {_printable(value)}".rstrip())


def remark(text: str) -> None:
    """Print a remark for people, to standard error."""
    click.echo(text, err=True)


@contextmanager
def progress(what: str, *, shown: bool = True) -> Iterator[Advance]:
    """Give what to call as work goes on; draws a bar if standard error is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def moment(at: float | None) -> str:
    """Return a time as people read it: UTC, to the second; "-" for none."""
    if at is None:
        return "-"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def age(seconds: float | None) -> str:
    """Return an age as people say it, by its two largest units: 93784 -> "1d2h"."""
    if seconds is None:
        return "-"
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number}{unit}")
    return "".join(parts[:2])


def counts(numbers: Mapping[str, int]) -> str:
    """Return counts as a sentence's end, most first: "OSError 12, KeyError 3"; "-" is what has no name."""
    return ", ".join(f"{name or '-'} {number:,}" for name, number in sorted(numbers.items(), key=lambda pair: -pair[1]))


def _console() -> Console:
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else WIDE)


def _printable(text: str) -> str:
    """Return the text with what would move a terminal's cursor or change its colours written out."""
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
