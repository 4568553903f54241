"""``celery -A ... scheduled list|cancel|reschedule``: delayed calls, by task id."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from liap_tasks.application import LiapApp
from liap_tasks.commands.finite import FiniteRange
from liap_tasks.commands.one_line import OneLineGroup
from liap_tasks.configuration import broker_feature
from liap_tasks.errors import ScheduleError
from liap_tasks.schedule import ScheduledCall, cancel, reschedule, scheduled
from transports import get_broker

__all__ = ["scheduled_command"]


def _app(context: click.Context) -> LiapApp:
    app: Any = context.obj.app
    if not isinstance(app, LiapApp):
        raise click.ClickException(f"app {app.main!r} is none of liap_tasks (create_app); choose one with -A")
    url = app.conf.broker_url
    if broker_feature(url, "in_process") and not get_broker(url).engine.queues:
        raise ScheduleError(
            f"{url} is in the memory of the program that uses it, and this is another: ask there, with "
            "liap_tasks.schedule, or let them share a broker (MESSAGE_QUEUE_URL)"
        )
    return app


@click.group("scheduled", cls=OneLineGroup)
def scheduled_command() -> None:
    """Delayed calls: list, cancel, reschedule."""


@scheduled_command.command("list")
@click.option("--queue", help="Only calls that wait for this queue.")
@click.option("--task", help="Only calls of this task.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, for machines.")
@click.pass_context
def list_calls(context: click.Context, queue: str | None, task: str | None, as_json: bool) -> None:
    """List the delayed calls, soonest first."""
    app = _app(context)
    calls, now = scheduled(app, queue=queue, task=task), app.now()
    if as_json:
        click.echo(json.dumps([call.model_dump(mode="json") for call in calls]))
        return
    if not calls:
        click.echo("no delayed calls")
        return
    console = Console()
    if not console.is_terminal:
        for call in calls:
            click.echo(f"{call.due.isoformat()}  {call.id}  {call.task}  {call.queue or call.worker or ''}")
        return
    table = Table("due in", "id", "task", "queue", "arguments")
    for call in calls:
        table.add_row(
            _left(call, now), call.id, call.task, call.queue or call.worker or "", f"{call.args} {call.kwargs}"
        )
    console.print(table)


@scheduled_command.command("cancel")
@click.argument("ids", nargs=-1, required=True)
@click.pass_context
def cancel_calls(context: click.Context, ids: tuple[str, ...]) -> None:
    """Cancel delayed calls for good; exit code 1 if one of them was not waiting any more."""
    _report({task_id: cancel(_app(context), task_id) for task_id in ids}, "cancelled")


@scheduled_command.command("reschedule")
@click.argument("ids", nargs=-1, required=True)
@click.option("--in", "countdown", type=FiniteRange(min=0), help="Seconds from now.")
@click.option("--at", "eta", type=click.DateTime(), help="A moment, UTC.")
@click.pass_context
def reschedule_calls(
    context: click.Context, ids: tuple[str, ...], countdown: float | None, eta: datetime | None
) -> None:
    """Let delayed calls go out at another time; exit code 1 if one of them was not waiting any more."""
    if (countdown is None) == (eta is None):
        raise click.UsageError("give either --in or --at")
    app = _app(context)
    _report({task_id: reschedule(app, task_id, countdown=countdown, eta=eta) for task_id in ids}, "rescheduled")


def _report(done: dict[str, bool], what: str) -> None:
    for task_id, happened in done.items():
        click.echo(f"{task_id}: {what if happened else 'is not waiting any more'}")
    if not all(done.values()):
        raise SystemExit(1)


def _left(call: ScheduledCall, now: datetime) -> str:
    return f"{(call.due - now).total_seconds():.1f} s"
