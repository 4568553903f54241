"""Async tasks in real ``celery worker`` processes on RabbitMQ."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from liap_tasks import DeadLetterReason, LiapApp, configuration, dead_letters
from tests.liap_tasks.pools.processes import DEADLINE, running
from tests.servers.rabbitmq import RabbitMQNode

SOURCE = """
import asyncio, contextvars, os, threading
from celery import current_task
from liap_tasks import RetryPolicy, create_app

app = create_app(main="pools")
never = RetryPolicy(max_retries=0)

@app.task(bind=True, name="pools.look", ignore_result=False)
async def look(self, number):
    identity = self.request.id
    for _ in range(3):
        await asyncio.sleep(0.01)
        assert self.request.id == current_task.request.id == identity
    return [number, identity, os.getpid()]

@app.task(name="pools.plain", ignore_result=False)
def plain():
    return threading.current_thread().name

@app.task(bind=True, name="pools.fails", retry_policy=RetryPolicy(max_retries=1, initial_delay=0.05, jitter=False))
async def fails(self):
    await asyncio.sleep(0)
    raise ValueError("attempt %d" % self.attempt)

@app.task(name="pools.overruns", retry_policy=never, timeout=0.2)
async def overruns():
    await asyncio.Event().wait()

@app.task(name="pools.spins", retry_policy=never, timeout=0.2)
async def spins():
    while True:
        pass

@app.task(name="pools.for_ever", ignore_result=False, timeout=60)
async def for_ever():
    print("begun for ever", flush=True)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled as asked", flush=True)
        raise

@app.task(name="pools.ends_slowly", timeout=60)
async def ends_slowly(path):
    print("begun slowly", flush=True)
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    print("ended slowly", flush=True)
"""

ASYNCIO = {"CELERY_CUSTOM_WORKER_POOL": "liap_tasks.pools.asyncio:TaskPool"}


def answers(app: LiapApp, count: int) -> list[Any]:
    sent = [app.send_task("pools.look", (number,), ignore_result=False) for number in range(count)]
    return [(result.id, result.get(timeout=DEADLINE)) for result in sent]


def wait_for_letters(app: LiapApp, count: int) -> dict[str | None, Any]:
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = dead_letters.dead_letter_queue().bind(channel)
        queue.declare()
        arrived: list[Any] = []
        with connection.Consumer([queue], channel=channel, on_message=arrived.append):
            while len(arrived) < count:
                connection.drain_events(timeout=DEADLINE)
    return {letter.task: letter for letter in dead_letters.peek(app)}


def queued(app: LiapApp) -> int:
    with app.connection_for_read() as connection, connection.channel() as channel:
        return int(channel.queue_declare(configuration.DEFAULT_QUEUE, passive=True).message_count)


def consumers(app: LiapApp) -> int:
    with app.connection_for_read() as connection, connection.channel() as channel:
        return int(channel.queue_declare(configuration.DEFAULT_QUEUE, passive=True).consumer_count)


def until(condition: Any) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_asyncio_pool_works_as_a_custom_pool(rabbit_app: LiapApp, tmp_path: Path) -> None:
    app = rabbit_app
    with running(app, SOURCE, tmp_path, "-P", "custom", **ASYNCIO) as worker:
        found = answers(app, 200)
        assert [answer[0] for _, answer in found] == list(range(200))
        assert all(answer[1:] == [identity, worker.process.pid] for identity, answer in found)
        assert "thread" in app.send_task("pools.plain", ignore_result=False).get(timeout=DEADLINE)

        app.send_task("pools.fails")
        app.send_task("pools.overruns")
        letters = wait_for_letters(app, 2)
        assert letters["pools.fails"].reason is DeadLetterReason.RETRIES_EXHAUSTED
        assert len(letters["pools.fails"].attempts) == 2
        assert letters["pools.overruns"].reason is DeadLetterReason.TIMED_OUT

        ends = app.send_task("pools.for_ever", ignore_result=False)
        until(lambda: "begun for ever" in worker.log)
        (stats,) = app.control.inspect(timeout=DEADLINE, limit=1).stats().values()
        assert (stats["pool"]["max-concurrency"], stats["pool"]["running-coroutines"]) == (1000, 1)
        app.control.revoke(ends.id, terminate=True)
        with pytest.raises(TaskRevokedError):
            ends.get(timeout=DEADLINE)
        until(lambda: "cancelled as asked" in worker.log)
        assert worker.stop() == 0
    assert queued(app) == 0
    assert "Traceback" not in worker.log.split("begun for ever")[1]


def test_every_acknowledgement_is_sent_at_once(rabbit_app: LiapApp, tmp_path: Path) -> None:
    # With one message at a time, an acknowledgement that waited for the consumer's next turn would cost a second each.
    source = SOURCE + "\napp.conf.worker_prefetch_multiplier = 1\n"
    with running(rabbit_app, source, tmp_path, "-P", "custom", "-c", "1", **ASYNCIO) as worker:
        assert len(answers(rabbit_app, 60)) == 60
        assert worker.stop() == 0


def test_a_warm_shutdown_ends_what_runs_and_gives_back_the_rest(rabbit_app: LiapApp, tmp_path: Path) -> None:
    app, path = rabbit_app, tmp_path / "go on"
    with running(app, SOURCE, tmp_path, "-P", "custom", "-c", "2", **ASYNCIO) as worker:
        for _ in range(5):
            app.send_task("pools.ends_slowly", (str(path),))
        until(lambda: worker.log.count("begun slowly") == 2)
        worker.process.send_signal(signal.SIGTERM)
        until(lambda: consumers(app) == 0)
        path.touch()
        assert worker.process.wait(DEADLINE) == 0
    assert worker.log.count("begun slowly") == worker.log.count("ended slowly") == 2
    assert queued(app) == 3


def test_a_cold_shutdown_cancels_and_gives_back_everything(rabbit_app: LiapApp, tmp_path: Path) -> None:
    app = rabbit_app
    with running(app, SOURCE, tmp_path, "-P", "custom", "-c", "2", **ASYNCIO) as worker:
        for _ in range(3):
            app.send_task("pools.for_ever")
        until(lambda: worker.log.count("begun for ever") == 2)
        worker.stop(signal.SIGQUIT)
    assert worker.log.count("cancelled as asked") == 2
    assert queued(app) == 3


def test_a_lost_connection_cancels_a_coroutine_and_its_message_is_delivered_again(
    rabbit_app: LiapApp, rabbitmq_node: RabbitMQNode | None, tmp_path: Path
) -> None:
    if rabbitmq_node is None:
        pytest.skip("only the private RabbitMQ can be told to close connections: unset LIAP_TEST_RABBITMQ_URL")
    with running(rabbit_app, SOURCE, tmp_path, "-P", "custom", **ASYNCIO) as worker:
        # A worker's first 0.1 s on a connection ignore that it is closed (celery 5.7, worker.loops._quick_drain).
        for number in range(5):  # each takes 30 ms
            rabbit_app.send_task("pools.look", (number,))
            until(lambda done=number: worker.log.count("succeeded") > done)
        rabbit_app.send_task("pools.for_ever")
        until(lambda: "begun for ever" in worker.log)
        rabbitmq_node.close_connections()
        until(lambda: worker.log.count("begun for ever") == 2)
    assert worker.log.count("cancelled as asked") == 1
    assert "Couldn't ack" not in worker.log


def test_autoscaling_lets_more_coroutines_run(rabbit_app: LiapApp, tmp_path: Path) -> None:
    app, path = rabbit_app, tmp_path / "go on"
    with running(app, SOURCE, tmp_path, "-P", "custom", "--autoscale", "6,1", **ASYNCIO) as worker:
        for _ in range(6):
            app.send_task("pools.ends_slowly", (str(path),))
        until(lambda: worker.log.count("begun slowly") == 6)
        path.touch()
        until(lambda: worker.log.count("ended slowly") == 6)
        assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_async_tasks_run_on_celerys_own_pools(rabbit_app: LiapApp, tmp_path: Path, pool: str) -> None:
    app = rabbit_app
    source = SOURCE + "\napp.conf.worker_prefetch_multiplier = 16\n"
    with running(app, source, tmp_path, "-P", pool, "-c", "4") as worker:
        found = answers(app, 20)
        assert [answer[:2] for _, answer in found] == [[n, identity] for n, (identity, _) in enumerate(found)]
        app.send_task("pools.fails")
        app.send_task("pools.overruns")
        if pool == "prefork":  # only there can Celery's limit end a loop that is blocked
            app.send_task("pools.spins")
        letters = wait_for_letters(app, 3 if pool == "prefork" else 2)
        assert letters["pools.fails"].reason is DeadLetterReason.RETRIES_EXHAUSTED
        assert letters["pools.overruns"].reason is DeadLetterReason.TIMED_OUT
        if pool == "prefork":
            assert letters["pools.spins"].reason is DeadLetterReason.TIMED_OUT
        assert len(answers(app, 4)) == 4  # the loops are well
        assert worker.stop() == 0
