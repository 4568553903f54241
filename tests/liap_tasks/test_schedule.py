"""Delayed calls, listed, cancelled and moved by task id, where the broker holds them and where workers do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from liap_tasks import EmbeddedWorker, LiapApp, schedule
from liap_tasks.commands.scheduled import scheduled_command
from liap_tasks.errors import ScheduleError
from tests.liap_tasks.conftest import Outcomes
from transports import VirtualClock
from transports.brokers import reset_broker


@pytest.fixture
def clock(app: LiapApp) -> VirtualClock:
    clock = VirtualClock()
    reset_broker(app.conf.broker_url, clock=clock)
    return clock


@pytest.fixture
def remind(app: LiapApp, clock: VirtualClock) -> Any:
    @app.task(shared=False, name="tests.remind")
    def remind(room: str) -> None: ...

    return remind


def test_delayed_calls_are_listed_soonest_first(app: LiapApp, remind: Any) -> None:
    @app.task(shared=False, name="tests.other")
    def other() -> None: ...

    late = remind.apply_async(("r2",), countdown=60)
    soon = remind.apply_async(("r1",), countdown=10, queue="reminders")
    other.apply_async(countdown=30)
    remind.delay("now")

    calls = schedule.scheduled(app)
    assert [(call.task, call.queue) for call in calls] == [
        ("tests.remind", "reminders"),
        ("tests.other", "liap_tasks"),
        ("tests.remind", "liap_tasks"),
    ]
    assert [call.id for call in schedule.scheduled(app, task="tests.remind")] == [soon.id, late.id]
    assert [call.args for call in schedule.scheduled(app, queue="reminders")] == ["('r1',)"]
    left = (calls[0].due - datetime.now(UTC)).total_seconds()
    assert 9 < left <= 10


def test_a_cancelled_call_never_runs(app: LiapApp, remind: Any, clock: VirtualClock, outcomes: Outcomes) -> None:
    kept = remind.apply_async(("kept",), countdown=10)
    cancelled = remind.apply_async(("cancelled",), countdown=5)
    assert schedule.cancel(app, cancelled.id)
    assert not schedule.cancel(app, cancelled.id)
    with EmbeddedWorker(app):
        clock.advance(10)
        assert outcomes.next().id == kept.id
        assert not schedule.cancel(app, kept.id)
    assert schedule.scheduled(app) == []


def test_a_call_goes_out_when_it_was_moved_to(
    app: LiapApp, remind: Any, clock: VirtualClock, outcomes: Outcomes
) -> None:
    moved = remind.apply_async(("moved",), countdown=5)
    later = remind.apply_async(("later",), countdown=6)
    assert schedule.reschedule(app, moved.id, countdown=60)
    assert schedule.reschedule(app, later.id, eta=datetime.now(UTC) + timedelta(seconds=30))
    assert not schedule.reschedule(app, "nobody", countdown=1)
    with EmbeddedWorker(app):
        clock.advance(31)
        assert outcomes.next().id == later.id
        assert [call.id for call in schedule.scheduled(app)] == [moved.id]
        clock.advance(30)
        assert outcomes.next().id == moved.id


@pytest.mark.parametrize("when", [{}, {"countdown": 1, "eta": datetime(2030, 1, 1, tzinfo=UTC)}])
def test_a_new_time_is_one_time(app: LiapApp, when: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either countdown or eta"):
        schedule.reschedule(app, "any", **when)


def command(app: LiapApp, *arguments: str) -> Result:
    return CliRunner().invoke(scheduled_command, arguments, obj=SimpleNamespace(app=app))


def test_the_command_lists_moves_and_cancels(app: LiapApp, remind: Any) -> None:
    assert command(app, "list").output == "no delayed calls\n"
    sent = remind.apply_async(("r1",), countdown=10)
    assert f"{sent.id}  tests.remind  liap_tasks" in command(app, "list").output
    (listed,) = json.loads(command(app, "list", "--json").output)
    assert (listed["id"], listed["queue"]) == (sent.id, "liap_tasks")
    assert command(app, "reschedule", sent.id, "--in", "99").output == f"{sent.id}: rescheduled\n"
    assert command(app, "reschedule", sent.id, "--at", "2126-01-01T00:00:00").exit_code == 1
    soon = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"
    assert command(app, "reschedule", sent.id, "--at", soon).exit_code == 0
    assert command(app, "reschedule", sent.id).exit_code == 2
    done = command(app, "cancel", sent.id, "nobody")
    assert (done.exit_code, done.output) == (1, f"{sent.id}: cancelled\nnobody: is not waiting any more\n")


@pytest.fixture
def rabbit_app(new_app: Any, rabbitmq_url: str) -> Iterator[LiapApp]:
    app = new_app(message_queue_url=rabbitmq_url)
    app.conf.task_default_queue = "schedule_tests"
    yield app
    with app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete("schedule_tests")


def test_where_workers_hold_delayed_calls_they_are_asked(rabbit_app: LiapApp, outcomes: Outcomes) -> None:
    @rabbit_app.task(shared=False, name="tests.held")
    def held() -> None: ...

    @rabbit_app.task(shared=False, name="tests.at_once")
    def at_once() -> None: ...

    with EmbeddedWorker(rabbit_app, name="holder@here", queues=["schedule_tests"]):
        sent = held.apply_async(countdown=300, queue="schedule_tests")
        at_once.apply_async(queue="schedule_tests")
        outcomes.next()
        (call,) = schedule.scheduled(rabbit_app, task="tests.held")
        assert (call.id, call.worker, call.queue) == (sent.id, "holder@here", "schedule_tests")
        with pytest.raises(ScheduleError, match="cannot be moved"):
            schedule.reschedule(rabbit_app, sent.id, countdown=1)
        assert command(rabbit_app, "reschedule", sent.id, "--in", "1").exit_code == 1
        assert schedule.cancel(rabbit_app, sent.id)
        assert not schedule.cancel(rabbit_app, "nobody")
