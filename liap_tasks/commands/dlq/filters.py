"""The options by which every command chooses dead letters.

Why a letter's queue is ``--from-queue``: a replay also has a queue to send to (``--queue``), and one name for both
would sooner or later send the wrong letters. Why a command that changes letters wants at least one of these options,
or ``--all``: forgetting the filter must not mean everything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from liap_tasks.commands.ages import AGE
from liap_tasks.commands.dlq.app import store_of
from liap_tasks.dead_letter_store import LetterFilter, LetterState
from liap_tasks.policies import DeadLetterReason

__all__ = ["chooses_letters"]

REASONS = [reason.value for reason in DeadLetterReason]
STATES = [state.value for state in LetterState]
Command = TypeVar("Command", bound=Callable[..., Any])


def chooses_letters(*, states: bool = True, all_wanted: bool = False) -> Callable[[Command], Command]:
    """Give a command the options that choose letters; it gets them as one argument, ``where``, a LetterFilter.

    states: whether it can choose by state. all_wanted: whether it must be told ``--all`` to work without any filter.
    """
    options = [
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        _one_or_more("--reason", "reasons", REASONS, "Why it is dead"),
        click.option("--task", "tasks", multiple=True, metavar="NAME", help="The task it was for."),
        click.option("--from-queue", "queues", multiple=True, metavar="QUEUE", help="Where it was to be processed."),
        click.option("--older-than", type=AGE, help="Dead for longer: 90s, 30m, 2h, 1d12h."),
        click.option("--newer-than", type=AGE, help="Dead for less long."),
        click.option(
            "--error",
            metavar="TEXT",
            help="Text in the error's name, message or traceback, in any case (SQLite: of the letters A to Z only).",
        ),
        click.option("--correlation-id", metavar="ID", help="What it belongs to."),
    ]
    if states:
        options.append(_one_or_more("--state", "states", STATES, "Where it is in its life"))
    if all_wanted:
        options.append(click.option("--all", "everything", is_flag=True, help="No filter: all of them."))

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(*args: Any, **given: Any) -> Any:
            everything = given.pop("everything", False)
            older, newer = given.pop("older_than"), given.pop("newer_than")
            chosen = {
                **{name: given.pop(name) for name in ("ids", "reasons", "tasks", "queues")},
                **({"states": given.pop("states")} if states else {}),
                **{name: given.pop(name) for name in ("error", "correlation_id")},
                "died_before": None if older is None else _now() - older,
                "died_after": None if newer is None else _now() - newer,
            }
            where = LetterFilter(**chosen)
            if all_wanted and where == LetterFilter() and not everything:
                raise click.UsageError("say which: by id, by a filter such as --task, or --all")
            for letter_id in where.ids:
                store_of(click.get_current_context()).get(letter_id)  # raises for one that is not there
            return command(*args, where=where, **given)

        for option in reversed(options):
            run = option(run)
        return run  # type: ignore[return-value]  # the same command, with its options taken in

    return decorate


def _now() -> float:
    return store_of(click.get_current_context()).clock()


def _one_or_more(flag: str, name: str, values: list[str], what: str) -> Callable[[Command], Command]:
    told = f"{what}: {', '.join(values)}."
    return click.option(flag, name, multiple=True, type=click.Choice(values), metavar=flag[2:].upper(), help=told)
