"""``celery transports``: what each transport honours.

Loading this module (the entry point group ``celery.commands``) also registers our URL schemes, so that every ``celery``
command knows them.
"""

from __future__ import annotations

import click

from transports import CAPABILITIES
from transports.capabilities import FEATURES

__all__ = ["capability_table", "transports"]


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
