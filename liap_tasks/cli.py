"""Commands that this package adds to ``celery``.

``celery transports`` prints what each transport honours. Loading this module (the entry point group
``celery.commands``) also registers our URL schemes, so that every ``celery`` command knows them.
"""

from __future__ import annotations

import sys

import click

from transports import CAPABILITIES
from transports.capabilities import FEATURES

__all__ = ["capability_table", "end_celery_command", "transports"]


def end_celery_command(error: Exception) -> None:
    """End the process with one line on stderr and code 1 if it runs the ``celery`` program; otherwise return.

    Why SystemExit: the program reports any Exception from an app's module as usage, error and traceback (celery 5.7,
    ``celery.bin.celery``), which buries the one line that says which setting to correct.
    """
    context = click.get_current_context(silent=True)
    program = getattr(sys.modules.get("celery.bin.celery"), "celery", None)
    if context is not None and context.find_root().command is program:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1)


def capability_table() -> str:
    """Return the capability table as Markdown; the README shows this very text."""
    names = list(CAPABILITIES)
    notes: list[str] = []
    rows = ["| feature | " + " | ".join(f"`{name}://`" for name in names) + " |", "|---|" + "---|" * len(names)]
    for feature in FEATURES:
        cells = []
        for name in names:
            support = getattr(CAPABILITIES[name], feature)
            mark = "yes" if support.supported else "no"
            if support.note:
                if support.note not in notes:
                    notes.append(support.note)
                mark += f" ({notes.index(support.note) + 1})"
            cells.append(mark)
        rows.append(f"| {feature.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1))])


@click.command("transports")
def transports() -> None:
    """Show what each transport honours."""
    click.echo(capability_table())
