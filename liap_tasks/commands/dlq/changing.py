"""``dlq edit``, ``dlq purge`` and ``dlq cancel``: they change letters in the store, and send nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import click

from liap_tasks.commands.dlq.app import app_with_store, store_of
from liap_tasks.commands.dlq.as_json import letter_as_json
from liap_tasks.commands.dlq.filters import chooses_letters
from liap_tasks.commands.dlq.output import progress, remark, say_json
from liap_tasks.dead_letter_store import LetterFilter
from liap_tasks.dead_letter_store.operations import CallChange
from liap_tasks.dead_letter_store.operations import edit as edit_letter

__all__ = ["cancel", "edit", "purge"]


class Json(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A click parameter of a JSON value of one kind."""

    def __init__(self, kind: type | None, name: str) -> None:
        self.kind = kind
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value, or end with click's usage error."""
        if not isinstance(value, str):
            return value
        return self.checked(value, param, ctx)

    def checked(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the text means."""
        try:
            value = json.loads(text)
        except ValueError as error:
            self.fail(f"{text!r} is no JSON ({error}); text needs its quotes: '\"like this\"'", param, ctx)
        if self.kind is not None and not isinstance(value, self.kind):
            self.fail(f"{text!r} is no {self.name}", param, ctx)
        return value


class Assignment(Json):
    """A click parameter such as ``2={"piles": 3}``: which argument, and its JSON value."""

    def __init__(self, *, by_position: bool) -> None:
        super().__init__(None, "POSITION=JSON" if by_position else "NAME=JSON")
        self.by_position = by_position

    def checked(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the pair of key and value."""
        name, equals, value = text.partition("=")
        if not equals or not name or (self.by_position and not name.isdecimal()):
            self.fail(f"{text!r} is not written as {self.name}", param, ctx)
        return int(name) if self.by_position else name, super().checked(value, param, ctx)


@click.command()
@click.argument("letter_id", metavar="ID")
@click.option("--args", type=Json(list, "JSON list"), metavar="JSON", help="All positional arguments.")
@click.option("--kwargs", type=Json(dict, "JSON object"), metavar="JSON", help="All keyword arguments.")
@click.option("--set-arg", type=Assignment(by_position=True), multiple=True, help="One, by position from 0.")
@click.option("--set-kwarg", type=Assignment(by_position=False), multiple=True, help="One, by name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def edit(
    context: click.Context,
    letter_id: str,
    args: Any,
    kwargs: Any,
    set_arg: tuple[tuple[int, Any], ...],
    set_kwarg: tuple[tuple[str, Any], ...],
    as_json: bool,
) -> None:
    """Change the arguments of a dead letter's call; who did it and what it was before is kept."""
    try:
        change = CallChange(args=args, kwargs=kwargs, set_args=dict(set_arg), set_kwargs=dict(set_kwarg))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    letter = edit_letter(app_with_store(context), letter_id, change)
    if as_json:
        say_json(letter_as_json(letter, whole=True))
    else:
        remark(f"{letter.id} is changed; send it with: dlq replay {letter.id}")


@click.command()
@chooses_letters(all_wanted=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def purge(context: click.Context, where: LetterFilter, yes: bool, as_json: bool) -> None:
    """Delete dead letters for good."""
    store = store_of(context)
    now = store.clock()  # a letter that comes while somebody decides is not deleted with the others
    where = replace(where, died_before=now if where.died_before is None else min(where.died_before, now))
    number = store.count(where)
    if number and not yes:
        if not sys.stdin.isatty():
            raise click.ClickException(f"{number:,} dead letters would be deleted for good: confirm with --yes")
        click.confirm(f"Delete {number:,} dead letters for good?", abort=True, err=True)
    with progress("purging", shown=not as_json and number > 0) as advance:
        purged = store.purge(where, progress=lambda done: advance(done, number)) if number else 0
    _tell(context, "purged", purged, as_json)


@click.command()
@chooses_letters(states=False, all_wanted=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def cancel(context: click.Context, where: LetterFilter, as_json: bool) -> None:
    """Cancel the automatic retries that are scheduled; the letters stay."""
    store = store_of(context)
    with progress("cancelling", shown=not as_json) as advance:
        cancelled = store.cancel_schedule(where, progress=lambda done: advance(done, None))
    _tell(context, "cancelled", cancelled, as_json)


def _tell(context: click.Context, done: str, number: int, as_json: bool) -> None:
    if as_json:
        say_json({done: number})
    else:
        remark(f"{number:,} {done}" if number else "no dead letter matches")
    if not number:
        context.exit(1)
