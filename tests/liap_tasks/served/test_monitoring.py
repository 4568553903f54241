"""Two workers that know of each other, and what watches them: events, remote control, Flower."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from liap_tasks.testing.nodes.process import LocalProcess
from tests.liap_tasks.served.world import DEADLINE, World, until

NAMES = ("one@here", "two@here")


@pytest.fixture(scope="module")
def workers(world: World) -> list[LocalProcess]:
    """Two workers that share a queue; the second looks for others when it starts."""
    first = world.worker("-n", NAMES[0], "-P", "prefork", "-c", "2")
    return [first, world.worker("-n", NAMES[1], "-P", "threads", "-c", "2", "--with-mingle")]


@pytest.fixture(scope="module")
def flower(world: World, workers: list[LocalProcess]) -> Iterator[httpx.Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world.start(
        *("celery", "-A", "tests.liap_tasks.served.worker_app", "flower", "--address=127.0.0.1", f"--port={port}"),
        label="flower",
        ready="Connected to liap-broker",
        FLOWER_UNAUTHENTICATED_API="true",
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as client:
        yield client


def test_a_worker_that_starts_meets_the_one_that_runs(workers: list[LocalProcess]) -> None:
    first, second = workers

    assert second.wait_for_log("mingle: sync with 1 nodes", DEADLINE)
    assert first.wait_for_log(f"sync with {NAMES[1]}", DEADLINE)


def test_workers_that_share_a_queue_share_the_work(world: World, workers: list[LocalProcess]) -> None:
    parents = {process.pid for process in workers}

    seen: set[int] = set()
    until(
        lambda: seen.update(result.get(timeout=DEADLINE) for result in calls(world, 20)) or len(seen) >= 2,
        "one worker did all the work",
    )

    assert parents & seen  # the threads of one
    assert seen - parents  # a child process of the other


def calls(world: World, count: int) -> list[Any]:
    return [world.app.tasks["served.process"].delay() for _ in range(count)]


def test_workers_answer_when_they_are_asked(world: World, workers: list[LocalProcess]) -> None:
    inspect = world.app.control.inspect(timeout=DEADLINE, limit=2)

    assert set(inspect.ping()) == set(NAMES)
    assert all("served.add" in tasks for tasks in inspect.registered().values())
    stats = inspect.stats()
    assert len(stats[NAMES[0]]["pool"]["processes"]) == 2
    assert stats[NAMES[0]]["broker"]["transport"] == "liap-broker"
    numbers = inspect._request("queue_stats", queue="liap_tasks")
    assert {name: answer["liap_tasks"]["consumers"] for name, answer in numbers.items()} == dict.fromkeys(NAMES, 2)


def test_the_inspect_command_prints_the_answers(world: World, workers: list[LocalProcess]) -> None:
    printed = json.loads(world.celery("inspect", "ping", "-j", "-d", ",".join(NAMES), "-t", "5"))

    assert printed == {name: {"ok": "pong"} for name in NAMES}


def test_a_worker_does_as_remote_control_says(world: World, workers: list[LocalProcess]) -> None:
    ask: dict[str, Any] = {"reply": True, "timeout": DEADLINE, "limit": 1, "destination": [NAMES[0]]}

    grown = world.app.control.pool_grow(1, **ask)
    limited = world.app.control.rate_limit("served.add", "10/s", **ask)

    assert grown == [{NAMES[0]: {"ok": "pool will grow"}}]
    assert limited == [{NAMES[0]: {"ok": "new rate limit set successfully"}}]
    inspect = world.app.control.inspect([NAMES[0]], timeout=DEADLINE, limit=1)
    until(lambda: len(inspect.stats()[NAMES[0]]["pool"]["processes"]) == 3, "the pool has not grown")
    world.app.control.rate_limit("served.add", 0, **ask)


def test_a_revoked_call_does_not_run_and_a_running_one_is_ended(world: World, workers: list[LocalProcess]) -> None:
    control, works = world.app.control, world.app.tasks["served.works"]
    running = world.app.tasks["served.waits"].apply_async((str(world.notes), "revoked"), queue="alone")
    queued = works.apply_async((str(world.notes), "queued"), queue="alone")
    control.add_consumer("alone", destination=[NAMES[0]], reply=True, timeout=DEADLINE, limit=1)
    until(lambda: world.noted("revoked"), "it did not begin")
    control.cancel_consumer("alone", destination=[NAMES[0]], reply=True, timeout=DEADLINE, limit=1)
    later = works.apply_async((str(world.notes), "later"), queue="alone")

    control.revoke([later.id, running.id], terminate=True, reply=True, timeout=DEADLINE, limit=2)
    control.add_consumer("alone", destination=[NAMES[0]], reply=True, timeout=DEADLINE, limit=1)

    until(lambda: world.left("alone") == (0, 0), "a revoked call was not acknowledged")
    assert workers[0].wait_for_log(f"Discarding revoked task: served.works[{later.id}]", DEADLINE)
    assert world.done("queued")
    assert "done" not in world.noted("revoked")
    assert world.noted("later") == []
    assert queued.id != later.id


def test_flower_shows_a_call_with_its_state_arguments_runtime_and_worker(world: World, flower: httpx.Client) -> None:
    shown: dict[str, Any] = {}

    def call_is_shown() -> bool:
        sent = world.app.tasks["served.add"].delay(40, 2)
        assert sent.get(timeout=DEADLINE) == 42
        end = time.monotonic() + 1
        while time.monotonic() < end and shown.get("state") != "SUCCESS":
            answer = flower.get(f"/api/task/info/{sent.id}")
            shown.update(answer.json() if answer.status_code == 200 else {})
            time.sleep(0.02)
        return shown.get("state") == "SUCCESS"

    until(call_is_shown, "Flower has not asked the workers for their events")  # it does so every few seconds

    assert (shown["name"], shown["args"], shown["result"]) == ("served.add", "(40, 2)", "42")
    assert shown["runtime"] > 0
    assert shown["worker"] in NAMES


def test_a_consumer_of_events_sees_the_life_of_a_call(world: World, workers: list[LocalProcess]) -> None:
    seen: dict[str, dict[str, Any]] = {}
    heartbeats: set[str] = set()
    ready = threading.Event()
    enough = threading.Event()

    def note(event: dict[str, Any]) -> None:
        if event["type"] == "worker-heartbeat":
            heartbeats.add(event["hostname"])
        if event.get("uuid") == sent.get("id"):
            seen[event["type"]] = event
        if {"task-received", "task-started", "task-succeeded"} <= seen.keys() and heartbeats == set(NAMES):
            enough.set()

    def receive() -> None:
        with world.app.connection_for_read() as connection:
            receiver = world.app.events.Receiver(connection, handlers={"*": note})
            with receiver.consumer_context() as (consuming, _, _):
                ready.set()
                while not enough.is_set():
                    consuming.drain_events(timeout=DEADLINE)

    sent: dict[str, str] = {}
    thread = threading.Thread(target=receive)
    thread.start()
    assert ready.wait(DEADLINE)
    world.app.control.enable_events(reply=True, timeout=DEADLINE, limit=2)
    sent["id"] = "watched"
    world.app.tasks["served.add"].apply_async((20, 3), task_id="watched")

    assert enough.wait(DEADLINE), (seen.keys(), heartbeats)
    thread.join()
    assert seen["task-received"]["name"] == "served.add"
    assert seen["task-succeeded"]["result"] == "23"
    assert seen["task-succeeded"]["hostname"] in NAMES


def test_the_events_command_dumps_what_happens(world: World, workers: list[LocalProcess]) -> None:
    dump = world.start(
        *("celery", "-A", "tests.liap_tasks.served.worker_app", "events", "--dump"), label="events", ready="] heartbeat"
    )

    world.app.control.enable_events(reply=True, timeout=DEADLINE, limit=2)

    sent = world.app.tasks["served.add"].delay(4, 5)

    assert dump.wait_for_log(f"task succeeded: served.add({sent.id})", DEADLINE), dump.logs().decode()
    dump.kill()


def test_flower_shows_the_workers(flower: httpx.Client) -> None:
    shown: dict[str, Any] = {}
    until(
        lambda: shown.update(flower.get("/api/workers", params={"refresh": "1"}).json()) or set(shown) == set(NAMES),
        "Flower does not know the workers",
    )

    assert {info["stats"]["broker"]["transport"] for info in shown.values()} == {"liap-broker"}
    assert all([queue["name"] for queue in info["active_queues"]].count("liap_tasks") == 1 for info in shown.values())
