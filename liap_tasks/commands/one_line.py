"""Commands whose errors are one line: what went wrong and what to do about it, and no traceback.

Exit codes: 0 done, 1 nothing matched or refused (by a rule, the store, the broker), 2 wrong usage.
An error of the program itself is not caught: it keeps its traceback, which is what a report of it needs.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

from liap_tasks.errors import LiapError
from transports.errors import TransportError

__all__ = ["OneLineGroup", "end_celery_command"]


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


class OneLineGroup(click.Group):
    """A group of commands that end with ``Error: ...`` and code 1 when something is refused or away."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (LiapError, TransportError) as error:
            raise click.ClickException(_one_line(error)) from error
        except DBAPIError as error:
            raise click.ClickException(
                f"the dead-letter store cannot be used: {_one_line(error.orig or error)}"
            ) from error
        except OperationalError as error:  # kombu's: the broker cannot be reached
            raise click.ClickException(f"the broker cannot be reached: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
