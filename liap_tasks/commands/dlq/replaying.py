"""``dlq replay``: send dead letters back to their queues."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click

from liap_tasks.application import LiapApp
from liap_tasks.commands.ages import AGE
from liap_tasks.commands.dlq.app import app_with_store
from liap_tasks.commands.dlq.filters import chooses_letters
from liap_tasks.commands.dlq.output import counts, progress, remark, say_json, say_pairs
from liap_tasks.commands.finite import FiniteRange
from liap_tasks.dead_letter_store import LetterFilter
from liap_tasks.dead_letter_store.operations import ReplayReport, StopRule
from liap_tasks.dead_letter_store.operations import replay as replay_letters

__all__ = ["replay"]

SKIPPED_SHOWN = 10


@click.command()
@chooses_letters(all_wanted=True)
@click.option("--queue", metavar="NAME", help="Send to this queue instead of each letter's own.")
@click.option("--rate", type=FiniteRange(min=0), default=500, show_default=True, help="A second; 0: no limit.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many, the oldest.")
@click.option(
    "--stop-at-errors",
    type=FiniteRange(0, 100),
    default=StopRule().percent,
    show_default=True,
    metavar="PERCENT",
    help=f"Stop when more of them come back with the same error, after {StopRule().sample} letters; 100: never.",
)
@click.option("--wait", type=AGE, default="0s", help="Wait so long at the end for letters that come back.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def replay(
    context: click.Context,
    /,
    where: LetterFilter,
    stop_at_errors: float,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Send dead letters back to their queues, oldest first, with a fresh count of attempts.

    Each is sent once, however many replays run; Ctrl-C ends cleanly and leaves the rest where it is. One that cannot be
    sent is named and left where it is, too.
    """
    app = app_with_store(context)
    with (
        interrupted_by_ctrl_c() as stop,
        progress("counting" if dry_run else "replaying", shown=not as_json) as advance,
    ):
        report = replay_letters(
            app,
            where,
            dry_run=dry_run,
            stop_rule=StopRule(percent=stop_at_errors),
            stop=stop,
            progress=advance,
            **options,
        )
    if as_json:
        say_json(asdict(report))
    elif not report.matched:
        remark(_why_nothing(app, where))
    else:
        say_pairs(_told(report))
    if report.stopped is not None and not as_json:
        remark(f"stopped: {report.stopped}")
    if report.stopped is not None or report.skipped or not report.matched:
        context.exit(1)


def _why_nothing(app: LiapApp, where: LetterFilter) -> str:
    letters = app.dead_letter_store.list(LetterFilter(ids=where.ids), limit=len(where.ids)) if where.ids else []
    settled = [f"{letter.id} is {letter.state}" for letter in letters]
    return f"nothing to replay: {', '.join(settled)}" if settled else "no dead letter matches"


def _told(report: ReplayReport) -> list[tuple[str, str]]:
    number = f"{report.matched:,}" if report.dry_run else f"{report.replayed:,} of {report.matched:,}"
    told = [
        ("would be replayed" if report.dry_run else "replayed", number),
        ("by task", counts(report.by_task)),
        ("to queue", counts(report.by_queue)),
        ("by reason", counts(report.by_reason)),
    ]
    if report.skipped:
        shown = [f"{letter_id}: {error}" for letter_id, error in list(report.skipped.items())[:SKIPPED_SHOWN]]
        more = len(report.skipped) - len(shown)
        told.append(("cannot be sent", "\n".join([*shown, *([f"and {more:,} more"] if more else [])])))
    if report.came_back:
        told.append(("came back", counts(report.came_back)))
    if not report.dry_run:
        told.append(("replay id", report.replay_id))
    return told


@contextmanager
def interrupted_by_ctrl_c() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C sets, so that the work ends between two letters and not within one.

    A second Ctrl-C is an ordinary KeyboardInterrupt.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def end(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, end)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
