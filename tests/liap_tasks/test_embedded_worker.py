"""The worker inside this process: started, stopped, started again, two at once, and no trace left in the process."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from celery import _state
from celery.worker import state

from liap_tasks import ConfigurationError, EmbeddedWorker, EmbeddedWorkerError, EventExchange, LiapApp, create_app
from liap_tasks.worker.consumer import LiapConsumer
from tests.liap_tasks.conftest import DEADLINE, Outcomes

Stats = Callable[..., dict[str, float]]
POOLS = pytest.mark.parametrize("pool", ["threads", "solo"])


@POOLS
def test_one_worker_can_be_started_again(app: LiapApp, outcomes: Outcomes, pool: Any) -> None:
    @app.task(shared=False, name="tests.noop")
    def noop() -> None: ...

    worker = EmbeddedWorker(app, pool=pool)
    for _ in range(2):
        with worker:
            assert worker.running
            noop.delay()
            assert outcomes.next().state == "SUCCESS"
        assert not worker.running


def test_two_workers_of_two_apps_run_their_own_tasks_at_once(
    new_app: Callable[..., LiapApp], outcomes: Outcomes
) -> None:
    first, second = new_app(), new_app()
    meeting = threading.Barrier(2)
    ran: list[str] = []

    def task_of(app: LiapApp, name: str) -> Any:
        # The same task name in both apps: each worker must look in its own.
        @app.task(shared=False, name="tests.meet")
        def meet() -> None:
            meeting.wait(DEADLINE)
            ran.append(name)

        return meet

    one, two = task_of(first, "first"), task_of(second, "second")
    with EmbeddedWorker(first), EmbeddedWorker(second):
        one.delay()
        two.delay()
        assert outcomes.states(2) == ["SUCCESS", "SUCCESS"]
    assert sorted(ran) == ["first", "second"]


def test_stopping_one_worker_leaves_the_other_at_work(new_app: Callable[..., LiapApp], outcomes: Outcomes) -> None:
    first, second = new_app(), new_app()

    @second.task(shared=False, name="tests.still")
    def still() -> None: ...

    other = EmbeddedWorker(first).start()
    with EmbeddedWorker(second) as worker:
        other.stop()
        assert worker.running
        still.delay()
        assert outcomes.next().state == "SUCCESS"


def test_two_workers_of_one_app_consume_each_its_own_queues(app: LiapApp, outcomes: Outcomes, stats: Stats) -> None:
    threads: dict[str, str] = {}

    @app.task(shared=False, bind=True, name="tests.where")
    def where(self: Any) -> None:
        threads[self.request.delivery_info["routing_key"]] = threading.current_thread().name

    with (
        EmbeddedWorker(app, queues=["fast"], pool="solo") as fast,
        EmbeddedWorker(app, queues=["slow"], pool="solo") as slow,
    ):
        where.apply_async(queue="fast")
        where.apply_async(queue="slow")
        outcomes.states(2)
    assert threads == {"fast": fast.hostname, "slow": slow.hostname}

    # A later worker without a choice consumes what the app has, as if these two had never been.
    with EmbeddedWorker(app):
        where.delay()
        assert outcomes.next().state == "SUCCESS"


@POOLS
def test_stopping_lets_running_tasks_end_and_gives_the_rest_back(
    app: LiapApp, outcomes: Outcomes, stats: Stats, pool: Any
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    @app.task(shared=False, name="tests.slow")
    def slow() -> None:
        begun.release()
        go_on.wait(DEADLINE)

    running = 2 if pool == "threads" else 1
    worker = EmbeddedWorker(app, concurrency=2, pool=pool)
    worker.start()
    for _ in range(7):
        slow.delay()
    for _ in range(running):
        assert begun.acquire(timeout=DEADLINE)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    worker._stopping.wait(DEADLINE)
    go_on.set()
    stopping.join(DEADLINE)
    assert not worker.running

    left = stats(app)
    assert left["acknowledged"] == running
    assert (left["ready"], left["unacked"]) == (7 - running, 0)


def test_a_worker_that_is_told_again_while_it_stops_closes_its_connections(
    app: LiapApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_consumer, stopped = LiapConsumer.stop, []

    def stop_and_hear_of_it_again(consumer: Any) -> None:
        consumer.controller.end_if_stopping()  # as where it waits for an answer of the broker, and a command comes
        stop_consumer(consumer)
        stopped.append(consumer)

    monkeypatch.setattr(LiapConsumer, "stop", stop_and_hear_of_it_again)
    with EmbeddedWorker(app):
        pass
    assert [consumer.connection for consumer in stopped] == [None]


def test_a_worker_that_is_busy_for_too_long_says_so(app: LiapApp) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @app.task(shared=False, name="tests.busy")
    def busy() -> None:
        begun.set()
        go_on.wait(DEADLINE)

    worker = EmbeddedWorker(app).start()
    busy.delay()
    assert begun.wait(DEADLINE)
    with pytest.raises(EmbeddedWorkerError, match="a task is still running"):
        worker.stop(timeout=0.05)
    go_on.set()
    worker.stop()
    assert not worker.running


def test_a_worker_that_cannot_be_woken_looks_by_itself(app: LiapApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise OSError("the connection was lost")

    monkeypatch.setattr(app.control, "broadcast", lost)
    events = EventExchange(app, "tests.late")
    queue = "heard-late"
    with EmbeddedWorker(app) as worker:
        events.subscribe("room.#", "tests.hears", queue=queue)
        events.publish("room.moved", {})
        with app.connection_for_read() as connection, connection.channel() as channel:
            deadline = time.monotonic() + DEADLINE
            while not channel.queue_stats(queue)[queue]["consumers"]:
                assert time.monotonic() < deadline
                threading.Event().wait(0.05)
        worker.stop(DEADLINE)


def test_a_worker_leaves_no_trace_in_the_process(app: LiapApp) -> None:
    def traces() -> dict[str, Any]:
        return {
            "signal handlers": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)],
            "log handlers": list(logging.getLogger().handlers),
            "log level": logging.getLogger().level,
            "stop flags": (state.should_stop, state.should_terminate),
            "default app": _state.default_app,
            "results may be waited for": not _state.task_join_will_block(),
            "socket timeout": socket.getdefaulttimeout(),
            "consumed queues": list(app.amqp.queues.consume_from),
        }

    before = traces()
    with EmbeddedWorker(app, queues=["elsewhere"]):
        during = traces()
    assert during == before
    assert traces() == before
    assert [thread.name for thread in threading.enumerate() if "embedded" in thread.name] == []


def test_two_starts_at_once_are_refused(app: LiapApp) -> None:
    with EmbeddedWorker(app) as worker, pytest.raises(EmbeddedWorkerError, match="runs already"):
        worker.start()


def test_stopping_a_worker_that_does_not_run_does_nothing(app: LiapApp) -> None:
    EmbeddedWorker(app).stop()


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"pool": "prefork"}])
def test_a_wrong_option_is_refused(app: LiapApp, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        EmbeddedWorker(app, **options)


def test_a_wrong_setting_is_raised_by_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "none")
    app = create_app(set_as_current=False)
    with pytest.raises(ConfigurationError, match="BATCH_SIZE"):
        EmbeddedWorker(app).start()
    app.close()


def test_a_worker_whose_broker_is_away_gives_up_and_ends(new_app: Callable[..., LiapApp]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        app = new_app(message_queue_url=f"amqp://127.0.0.1:{taken.getsockname()[1]}//")
        worker = EmbeddedWorker(app)
        with pytest.raises(EmbeddedWorkerError, match="did not start"):
            worker.start(timeout=0.5)
        assert worker._thread is not None
        worker._thread.join(DEADLINE)
        assert not worker.running


def test_a_worker_that_cannot_start_says_why(new_app: Callable[..., LiapApp]) -> None:
    broker = f"liap-memory:///{uuid4()}"
    with EmbeddedWorker(new_app(message_queue_url=broker, max_queue_size=5)):
        pass
    with pytest.raises(EmbeddedWorkerError, match=r"cannot start: queue 'liap_tasks' .* \(setting MAX_QUEUE_SIZE\)"):
        EmbeddedWorker(new_app(message_queue_url=broker, max_queue_size=6)).start(timeout=DEADLINE)


def test_inspect_gives_the_statistics_of_the_queues(app: LiapApp) -> None:
    name = app.conf.task_default_queue

    @app.task(shared=False, name="tests.noop")
    def noop() -> None: ...

    noop.apply_async(queue="waiting")
    with EmbeddedWorker(app) as worker:
        inspect = app.control.inspect(destination=[worker.hostname], timeout=DEADLINE, limit=1)
        everything = inspect._request("queue_stats")[worker.hostname]
        one = inspect._request("queue_stats", queue="waiting")[worker.hostname]
    assert {name, "waiting"} <= everything.keys()
    assert one.keys() == {"waiting"}
    assert one["waiting"]["ready"] == one["waiting"]["enqueued"] == 1


def test_inspect_tells_when_a_transport_keeps_no_statistics(new_app: Callable[..., LiapApp]) -> None:
    app = new_app(message_queue_url="memory://statistics")
    with EmbeddedWorker(app) as worker:
        inspect = app.control.inspect(destination=[worker.hostname], timeout=DEADLINE, limit=1)
        answer = inspect._request("queue_stats")[worker.hostname]
    assert "management tools" in answer["error"]


def test_the_consumed_queues_can_be_inspected(app: LiapApp) -> None:
    with EmbeddedWorker(app) as worker:
        inspect = app.control.inspect(destination=[worker.hostname], timeout=DEADLINE, limit=1)
        (queue,) = inspect.active_queues()[worker.hostname]
    assert queue["name"] == app.conf.task_default_queue
