"""Every reason that a message can die of, by a worker process on RabbitMQ that keeps its letters in a database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from kombu import Connection, Queue

from liap_tasks import DeadLetterReason, LiapApp, dead_letters
from liap_tasks.configuration import DEAD_LETTER_EXCHANGE, DEFAULT_QUEUE, DELIVERY_LIMIT, dead_letter_queue
from liap_tasks.dead_letter_store import DeadLetterStore
from liap_tasks.worker.redelivery import HEADER as REDELIVERIES
from tests.liap_tasks.dead_letter_store.conftest import store_url
from tests.liap_tasks.kill import tasks
from tests.liap_tasks.kill.conftest import Runs, StartWorker
from tests.liap_tasks.kill.test_worker_killed import finish, waiting

__all__ = ["store_url"]

DEADLINE = 60
UNCONSUMED = "tests.nobody"
REASONS = set(DeadLetterReason) - {DeadLetterReason.UNKNOWN_VERSION}  # a verdict of the game's


@pytest.fixture
def default_worker_env(default_worker_env: dict[str, str], store_url: str) -> dict[str, str]:
    return {**default_worker_env, "DLQ_STORE_URL": store_url, "DLQ_MAX_RETRIES": "0"}


@pytest.fixture
def store(store_url: str) -> Iterator[DeadLetterStore]:
    with closing(DeadLetterStore(store_url)) as opened:
        yield opened


def die_on_the_broker(app: LiapApp, runs: Runs) -> dict[str, str]:
    """Let messages die before a worker has them; return their ids by reason. One was delivered too often already."""
    ids = {}
    with app.connection_for_write() as connection, connection.channel() as channel:
        overflows = {"x-max-length": 1, "x-overflow": "drop-head", "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE}
        for queue in (dead_letter_queue(), Queue(UNCONSUMED, queue_arguments=overflows)):
            queue.bind(channel).declare()
    for reason, options in {"maxlen": {}, "expired": {"expiration": 0.001}}.items():  # the second drops the first
        ids[reason] = tasks.ends_as_told.apply_async((reason,), queue=Queue(UNCONSUMED, no_declare=True), **options).id
    ids["delivery_limit"] = tasks.works.apply_async(
        (str(runs.folder), "deadly"), headers={REDELIVERIES: DELIVERY_LIMIT}
    ).id
    with Connection(app.conf.broker_url) as connection:  # whoever took it was lost
        taken = Queue(DEFAULT_QUEUE, channel=connection.default_channel).get()
        assert taken is not None
    return ids


def die_in_the_worker(app: LiapApp, runs: Runs) -> dict[str, str]:
    """Send what a worker will put among the dead letters; return the ids by reason."""
    folder = str(runs.folder)
    ids = {how: tasks.ends_as_told.delay(how).id for how in ("rejected", "processing_failed", "manual")}
    ids["retries_exhausted"] = tasks.fails.delay(folder, "fails").id
    ids["timed_out"] = tasks.overruns.delay(folder, "overruns").id
    ids["worker_lost"] = tasks.kills_its_process.delay(folder, "killer").id
    ids["validation_failed"] = app.send_task("kill.fails", ("an argument of an older version",)).id
    ids["no_handler"] = app.send_task("kill.of_a_later_version").id
    ids["undecodable"] = "nobody knows"
    with app.producer_or_acquire() as producer:
        producer.publish(
            b"\xff no JSON",
            routing_key=DEFAULT_QUEUE,
            headers={"id": ids["undecodable"], "task": "kill.works"},
            content_type="application/json",
            content_encoding="utf-8",
        )
    return ids


@pytest.mark.rabbitmq
def test_a_message_dies_of_each_reason_and_is_in_the_store(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs, store: DeadLetterStore
) -> None:
    expected = die_on_the_broker(rabbit, runs)
    worker = start_worker("-P", "prefork", "-c", "2", wait=False)
    expected |= die_in_the_worker(rabbit, runs)
    deadline = time.monotonic() + DEADLINE
    while not store.exists() or store.count() < len(REASONS):
        assert time.monotonic() < deadline, f"{store.stats()}\n{worker.logs()}"
        time.sleep(0.05)
    finish(worker)

    found = {letter.reason: letter for letter in store.list()}
    assert set(found) == set(expected) == REASONS
    assert {reason: letter.task_id for reason, letter in found.items()} == expected
    assert found["undecodable"].body == b"\xff no JSON"
    assert {letter.queue for letter in found.values()} == {DEFAULT_QUEUE, UNCONSUMED}
    assert len(runs.of("killer")) == 2  # tried as often as its policy says
    assert runs.of("deadly") == []
    assert store.stats().by_reason == dict.fromkeys(REASONS, 1)
    assert (waiting(rabbit), dead_letters.count(rabbit)) == (0, 0)  # each was acknowledged, after it was kept
