"""``dlq export`` and ``dlq import``: dead letters as lines of JSON."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import IO

import click

from liap_tasks.commands.dlq.app import app_of, store_of
from liap_tasks.commands.dlq.filters import chooses_letters
from liap_tasks.commands.dlq.output import progress, remark, say_json
from liap_tasks.dead_letter_store import LetterFilter
from liap_tasks.dead_letter_store.operations import export_letters as write_letters
from liap_tasks.dead_letter_store.operations import import_letters as read_letters

__all__ = ["export", "import_letters"]


@click.command()
@chooses_letters()
@click.option("--output", "-o", type=click.File("w", encoding="utf-8", lazy=True), default="-", help="Default: stdout.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document about it, to standard error.")
@click.pass_context
def export(context: click.Context, where: LetterFilter, output: IO[str], as_json: bool) -> None:
    """Write dead letters, a line of JSON each; they stay in the store."""
    total = store_of(context).count(where)
    to_terminal = output.name == "<stdout>" and sys.stdout.isatty()
    with progress("exporting", shown=not as_json and not to_terminal) as advance:
        number = write_letters(app_of(context), output, where, progress=lambda done: advance(done, total))
    if as_json:
        say_json({"exported": number}, err=True)
    else:
        remark(f"{number:,} exported" if number else "no dead letter matches")
    if not number:
        context.exit(1)


@click.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def import_letters(context: click.Context, file: IO[str], as_json: bool) -> None:
    """Put exported dead letters into the store; those that are there already, or were purged, are left out."""
    with progress("importing", shown=not as_json) as advance:
        report = read_letters(app_of(context), file, progress=lambda done: advance(done, None))
    if as_json:
        say_json(asdict(report))
    else:
        remark(f"{report.imported:,} imported, {report.known:,} were there already")
