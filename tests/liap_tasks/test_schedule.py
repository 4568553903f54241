"""Delayed calls, listed, cancelled and moved by task id, where the broker holds them and where workers do."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import chord
from celery.exceptions import TaskRevokedError
from click.testing import CliRunner, Result

from liap_tasks import EmbeddedWorker, LiapApp, schedule
from liap_tasks.commands.scheduled import scheduled_command
from liap_tasks.errors import ScheduleError
from liap_tasks.testing import WorkerClock
from tests.liap_tasks.conftest import DEADLINE, Outcomes


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def remind(liap_app: LiapApp, virtual_clock: WorkerClock, ran: list[str]) -> Any:
    @liap_app.task(shared=False, name="tests.remind")
    def remind(room: str) -> None:
        ran.append(room)

    return remind


def test_delayed_calls_are_listed_soonest_first(liap_app: LiapApp, remind: Any, virtual_clock: WorkerClock) -> None:
    @liap_app.task(shared=False, name="tests.other")
    def other() -> None: ...

    late = remind.apply_async(("r2",), countdown=60)
    soon = remind.apply_async(("r1",), countdown=10, queue="reminders")
    other.apply_async(countdown=30)
    remind.delay("now")

    calls = schedule.scheduled(liap_app)
    assert [(call.task, call.queue, call.due.timestamp() - virtual_clock.time()) for call in calls] == [
        ("tests.remind", "reminders", pytest.approx(10)),
        ("tests.other", "liap_tasks", pytest.approx(30)),
        ("tests.remind", "liap_tasks", pytest.approx(60)),
    ]
    assert [call.id for call in schedule.scheduled(liap_app, task="tests.remind")] == [soon.id, late.id]
    assert [call.args for call in schedule.scheduled(liap_app, queue="reminders")] == ["('r1',)"]


def test_a_cancelled_call_never_runs(
    liap_app: LiapApp, liap_worker: EmbeddedWorker, remind: Any, virtual_clock: WorkerClock, ran: list[str]
) -> None:
    kept = remind.apply_async(("kept",), countdown=10)
    cancelled = remind.apply_async(("cancelled",), countdown=5)
    assert schedule.cancel(liap_app, cancelled.id)
    assert not schedule.cancel(liap_app, cancelled.id)
    virtual_clock.advance(3600)
    assert ran == ["kept"]
    assert not schedule.cancel(liap_app, kept.id)
    assert schedule.scheduled(liap_app) == []


def test_who_waits_for_a_cancelled_call_is_told(liap_app: LiapApp, virtual_clock: WorkerClock) -> None:
    @liap_app.task(shared=False, name="tests.awaited", ignore_result=False)
    def awaited() -> None: ...

    for sent in (awaited.apply_async(countdown=5), awaited.submit(countdown=5)):
        assert schedule.cancel(liap_app, sent.id)
        with pytest.raises(TaskRevokedError):
            sent.get(timeout=DEADLINE)


def test_a_cancelled_call_is_revoked_in_a_backend_that_stores_results_and_its_chord_fails(
    new_app: Callable[..., LiapApp],
) -> None:
    app = new_app()
    app.conf.result_backend = "cache+memory://"

    @app.task(shared=False, name="tests.awaited", ignore_result=False)
    def awaited(*_: Any) -> None: ...

    @app.task(shared=False, name="tests.forgotten", ignore_result=True)
    def forgotten() -> None: ...

    header = [awaited.s().set(countdown=600, task_id="first"), awaited.s().set(countdown=600, task_id="second")]
    body = chord(header, awaited.s()).delay()
    unheard = forgotten.apply_async(countdown=600)
    for task_id in ("first", "second", unheard.id):
        assert schedule.cancel(app, task_id)
    assert [app.AsyncResult(task_id).state for task_id in ("first", "second", unheard.id)] == [
        "REVOKED",
        "REVOKED",
        "PENDING",
    ]
    assert body.state == "FAILURE"


def test_a_call_goes_out_when_it_was_moved_to(
    liap_app: LiapApp, liap_worker: EmbeddedWorker, remind: Any, virtual_clock: WorkerClock, ran: list[str]
) -> None:
    moved = remind.apply_async(("moved",), countdown=5)
    later = remind.apply_async(("later",), countdown=600)
    assert schedule.reschedule(liap_app, moved.id, countdown=60)
    assert schedule.reschedule(liap_app, later.id, eta=liap_app.now() + timedelta(seconds=30))
    assert not schedule.reschedule(liap_app, "nobody", countdown=1)
    virtual_clock.advance(31)
    assert ran == ["later"]
    assert [call.id for call in schedule.scheduled(liap_app)] == [moved.id]
    virtual_clock.advance(30)
    assert ran == ["later", "moved"]


@pytest.mark.parametrize("when", [{}, {"countdown": 1, "eta": datetime(2030, 1, 1, tzinfo=UTC)}])
def test_a_new_time_is_one_time(liap_app: LiapApp, when: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either countdown or eta"):
        schedule.reschedule(liap_app, "any", **when)


@pytest.mark.parametrize("countdown", [float("nan"), float("inf"), -0.1, "3"])
def test_a_countdown_is_seconds_from_now(liap_app: LiapApp, remind: Any, countdown: Any) -> None:
    sent = remind.apply_async(("r1",), countdown=60)
    with pytest.raises(ValueError, match="countdown must be"):
        schedule.reschedule(liap_app, sent.id, countdown=countdown)
    assert [call.id for call in schedule.scheduled(liap_app)] == [sent.id]


def command(app: LiapApp, *arguments: str) -> Result:
    return CliRunner().invoke(scheduled_command, arguments, obj=SimpleNamespace(app=app))


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
def test_a_wrong_time_on_the_command_line_is_a_usage_error(liap_app: LiapApp, remind: Any, seconds: str) -> None:
    sent = remind.apply_async(("r1",), countdown=60)
    ended = command(liap_app, "reschedule", sent.id, f"--in={seconds}")
    assert (ended.exit_code, ended.exception.__class__) == (2, SystemExit)
    assert "'--in'" in ended.output


def test_the_command_lists_moves_and_cancels(liap_app: LiapApp, remind: Any) -> None:
    remind.delay("now")
    assert command(liap_app, "list").output == "no delayed calls\n"
    sent = remind.apply_async(("r1",), countdown=10)
    assert f"{sent.id}  tests.remind  liap_tasks" in command(liap_app, "list").output
    (listed,) = json.loads(command(liap_app, "list", "--json").output)
    assert (listed["id"], listed["queue"]) == (sent.id, "liap_tasks")
    assert command(liap_app, "reschedule", sent.id, "--in", "99").output == f"{sent.id}: rescheduled\n"
    assert command(liap_app, "reschedule", sent.id, "--at", "2126-01-01T00:00:00").exit_code == 1
    soon = f"{liap_app.now() + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"
    assert command(liap_app, "reschedule", sent.id, "--at", soon).exit_code == 0
    assert command(liap_app, "reschedule", sent.id).exit_code == 2
    done = command(liap_app, "cancel", sent.id, "nobody")
    assert (done.exit_code, done.output) == (1, f"{sent.id}: cancelled\nnobody: is not waiting any more\n")


@pytest.mark.parametrize("arguments", [("list",), ("cancel", "x"), ("reschedule", "x", "--in", "5")])
def test_a_program_that_has_sent_nothing_is_told_that_it_is_the_wrong_one(
    liap_app: LiapApp, arguments: tuple[str, ...]
) -> None:
    done = command(liap_app, *arguments)
    assert done.exit_code == 1
    assert "is in the memory of the program that uses it" in done.output


@pytest.fixture
def rabbit_app(new_app: Any, rabbitmq_virtual_host: str, monkeypatch: pytest.MonkeyPatch) -> LiapApp:
    monkeypatch.setattr(schedule, "ASK_SECONDS", 0.3)
    app: LiapApp = new_app(message_queue_url=rabbitmq_virtual_host)
    return app


def test_where_workers_hold_delayed_calls_they_are_asked(rabbit_app: LiapApp, outcomes: Outcomes) -> None:
    @rabbit_app.task(shared=False, name="tests.held")
    def held(which: str) -> None: ...

    with EmbeddedWorker(rabbit_app, name="holder@here"):
        cancelled = held.apply_async(("cancelled",), countdown=600)
        kept = held.apply_async(("kept",), countdown=700)
        held.delay("now")
        outcomes.next()  # what was sent before it has arrived, too
        calls = {call.id: call for call in schedule.scheduled(rabbit_app, task="tests.held")}
        assert calls.keys() == {cancelled.id, kept.id}
        assert (calls[kept.id].worker, calls[kept.id].queue) == ("holder@here", "liap_tasks")
        with pytest.raises(ScheduleError, match="cannot be moved"):
            schedule.reschedule(rabbit_app, kept.id, countdown=1)
        refused = command(rabbit_app, "reschedule", kept.id, "--in", "1")
        assert (refused.exit_code, "cancel it and call again" in refused.output) == (1, True)
        assert schedule.cancel(rabbit_app, cancelled.id)
        assert not schedule.cancel(rabbit_app, cancelled.id)
        assert not schedule.cancel(rabbit_app, "nobody")
        assert [call.id for call in schedule.scheduled(rabbit_app)] == [kept.id]


def test_where_workers_hold_delayed_calls_silence_is_no_answer(rabbit_app: LiapApp) -> None:
    with pytest.raises(ScheduleError, match="no worker has answered"):
        schedule.cancel(rabbit_app, "any")
    listed = command(rabbit_app, "list")
    assert (listed.exit_code, listed.output.count("\n")) == (1, 1)
    assert "only workers know of delayed calls" in listed.output
