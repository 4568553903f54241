"""``kill -9`` of workers, of their children, of programs that publish, and of the broker."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from liap_tasks.testing.nodes.process import LocalProcess
from tests.liap_tasks.served.world import DEADLINE, World, until

PUBLISHER = """
import itertools
from tests.liap_tasks.served import tasks
from tests.liap_tasks.served.worker_app import app

for number in itertools.count(1):
    app.tasks["served.works"].apply_async(("nowhere", str(number)), queue="published")
    print(number, flush=True)
"""


@pytest.fixture
def workers(world: World) -> Iterator[list[LocalProcess]]:
    started: list[LocalProcess] = []
    yield started
    for process in started:
        if process.status == "running":
            process.kill()
    with world.app.connection_for_write() as connection:
        connection.default_channel.queue_purge(world.app.conf.task_default_queue)


def began_in(world: World, key: str, attempts: int = 1) -> int:
    """Wait for the begin of an attempt, and return its process."""
    until(lambda: len(world.noted(key)) >= attempts, f"attempt {attempts} of {key} did not begin")
    return int(world.noted(key)[attempts - 1].removeprefix("begun in "))


def test_a_call_whose_child_process_is_killed_is_run_again(world: World, workers: list[LocalProcess]) -> None:
    workers.append(world.worker("-P", "prefork", "-c", "2"))
    sent = world.app.tasks["served.waits"].delay(str(world.notes), "child")
    first = began_in(world, "child")

    os.kill(first, signal.SIGKILL)
    second = began_in(world, "child", attempts=2)
    (world.notes / "go").touch()

    assert sent.get(timeout=DEADLINE) == second != first
    until(lambda: world.left() == (0, 0), "a message was not acknowledged")
    (world.notes / "go").unlink()


def test_a_cold_shutdown_of_the_solo_pool_gives_its_task_back(world: World, workers: list[LocalProcess]) -> None:
    worker = world.worker("-P", "solo")
    workers.append(worker)
    world.app.tasks["served.waits"].delay(str(world.notes), "solo")
    began_in(world, "solo")

    worker.kill("SIGQUIT")

    world.end_of(worker)
    assert world.left() == (1, 0)
    assert len(world.noted("solo")) == 1
    assert world.numbers("dead_letters")["ready"] == 0


def test_what_a_killed_worker_held_is_done_by_another(world: World, workers: list[LocalProcess]) -> None:
    workers.append(world.worker("-P", "prefork", "-c", "2"))
    keys = [f"held-{number}" for number in range(60)]
    for key in keys:
        world.app.tasks["served.works"].delay(str(world.notes), key, 0.01)
    until(lambda: any("done" in world.noted(key) for key in keys), "nothing was done")

    workers[0].kill()
    workers.append(world.worker("-P", "threads", "-c", "4"))

    until(lambda: world.done(*keys), "a message was lost")
    again = [key for key in keys if world.noted(key).count("done") > 1]
    assert len(again) <= 2 * 4  # what was unacknowledged: two children times the prefetch multiplier
    until(lambda: world.left() == (0, 0), "a message was not acknowledged")


def test_what_a_killed_program_was_told_is_published_is_there(world: World) -> None:
    program = world.start(sys.executable, "-c", PUBLISHER, label="publisher", ready="100\n")

    program.kill()

    told = int(program.logs().split()[-1])
    assert told <= world.numbers("published")["ready"] <= told + 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_workers_go_on_when_their_broker_was_killed_and_started_again(
    world: World, workers: list[LocalProcess], pool: str
) -> None:
    workers.append(world.worker("-P", pool, "-c", "2"))
    assert world.app.tasks["served.add"].delay(1, 2).get(timeout=DEADLINE) == 3

    world.broker.kill()
    assert workers[0].wait_for_log("Connection to broker lost", DEADLINE), workers[0].logs().decode()
    world.broker.start()
    world.broker.wait_until_ready(DEADLINE)

    # By now the worker may have declared its queue again, or not yet: the call finds or makes it.
    assert world.app.tasks["served.add"].delay(2, 3).get(timeout=DEADLINE) == 5
    assert world.app.control.ping(timeout=DEADLINE, limit=1)
    workers[0].kill("SIGTERM")
    assert world.end_of(workers[0]) == 0
