"""``celery -A app dlq``: look at dead letters, send them back, change, delete and move them.

One file for each kind of work; the operations themselves are in :mod:`liap_tasks.dead_letter_store` and can be called
from Python as well.
"""

from __future__ import annotations

import click

from liap_tasks.commands.dlq.changing import cancel, edit, purge
from liap_tasks.commands.dlq.looking import list_letters, show, stats
from liap_tasks.commands.dlq.moving import export, import_letters
from liap_tasks.commands.dlq.replaying import replay
from liap_tasks.commands.one_line import OneLineGroup

__all__ = ["dlq"]


@click.group("dlq", cls=OneLineGroup)
def dlq() -> None:
    """Dead letters: messages that could not be processed and are kept.

    Exit codes: 0 done, 1 nothing matched or refused, 2 wrong usage.
    """


for command in (list_letters, show, stats, replay, edit, purge, cancel, export, import_letters):
    dlq.add_command(command)
