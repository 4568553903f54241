"""Servers that go away while dead letters are recorded: nothing is lost, and each outage is said once."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import sqlalchemy as sa

from liap_tasks import EmbeddedWorker, LiapApp, configuration, dead_letters
from liap_tasks.dead_letter_store.outage import Outage
from liap_tasks.dead_letter_store.recorder import Recorder
from tests.liap_tasks.conftest import DEADLINE, Outcomes
from tests.liap_tasks.dead_letter_store.forwarder import Forwarder
from tests.liap_tasks.dead_letter_store.test_recorder import NEVER, NewApp, letters_in, wait_for

ROOT = Path(__file__).resolve().parents[3]
STORE_LOG = "liap_tasks.dead_letter_store"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liap_tasks.dead_letter_store.outage.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("liap_tasks.dead_letter_store.outage.LONGEST_PAUSE", 0.1)


@pytest.fixture
def forward() -> Iterator[Callable[[str], tuple[Forwarder, str]]]:
    """Put a forwarder before the server of a URL; returns it, closed, and the URL that leads through it."""
    made: list[Forwarder] = []

    def make(url: str) -> tuple[Forwarder, str]:
        parts = urlsplit(url)
        made.append(Forwarder((parts.hostname or "", parts.port or 5672)))
        user = parts.netloc.rpartition("@")[0]
        place = f"{user}@127.0.0.1:{made[-1].port}" if user else f"127.0.0.1:{made[-1].port}"
        return made[-1], parts._replace(netloc=place).geturl()

    yield make
    for forwarder in made:
        forwarder.cut()


def outages(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    said = [record.message for record in caplog.records if record.name == STORE_LOG and what in record.message]
    return ["away" if "cannot be reached" in line else "back" if "is back" in line else line for line in said]


def test_postgresql_may_be_away_at_the_start_and_in_between(
    new_app: NewApp,
    outcomes: Outcomes,
    postgres_url: str,
    forward: Callable[[str], tuple[Forwarder, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    schema = f"outage_{uuid4().hex}"
    admin = sa.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    with admin.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    forwarder, url = forward(postgres_url)
    app = new_app(dlq_store_url=f"{url}?options=-csearch_path%3D{schema}", dlq_max_retries=0)

    @app.task(shared=False, name="tests.dies", retry_policy=NEVER)
    def dies() -> None:
        raise ValueError

    with caplog.at_level(logging.WARNING, STORE_LOG), EmbeddedWorker(app):
        for letters in (2, 4):
            dies.delay()
            dies.delay()
            outcomes.states(2)
            wait_for(lambda: outages(caplog, "dead letters wait")[-1:] == ["away"])
            wait_for(lambda: dead_letters.count(app) == 2)
            forwarder.open()
            assert len(letters_in(app, letters)) == letters
            wait_for(lambda: outages(caplog, "the dead-letter store is back"))
            wait_for(lambda: dead_letters.count(app) == 0)
            if letters == 2:
                forwarder.cut()
    assert outages(caplog, "dead letters wait") == ["away", "away"]
    with admin.begin() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True))


@pytest.fixture
def rabbit(new_app: NewApp, rabbitmq_url: str, tmp_path: Path) -> NewApp:
    """Make an app on RabbitMQ whose queues are new."""

    def make(**settings: Any) -> LiapApp:
        return new_app(**{"message_queue_url": rabbitmq_url, "dlq_max_retries": 0, **settings})

    direct = make()
    with direct.connection_for_write() as connection, connection.channel() as channel:
        for queue in (configuration.DEFAULT_QUEUE, configuration.DEAD_LETTER_QUEUE):
            channel.queue_delete(queue)
    return make


def publish_dead_letter(app: LiapApp, text: str) -> None:
    queue = configuration.dead_letter_queue()
    with app.connection_for_write() as connection:
        connection.Producer().publish(
            text, exchange=queue.exchange, routing_key="games", declare=[queue], content_type="text/plain"
        )


def test_a_broken_connection_to_rabbitmq_is_made_again(
    rabbit: NewApp,
    rabbitmq_url: str,
    forward: Callable[[str], tuple[Forwarder, str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    direct = rabbit()
    forwarder, url = forward(rabbitmq_url)
    app = rabbit(message_queue_url=url, dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3")
    forwarder.open()
    recorder = Recorder(app, app.dead_letter_store)
    tries: list[str] = []
    wait = Outage.wait
    monkeypatch.setattr(Outage, "wait", lambda self, error: (tries.append(self._what), wait(self, error)))
    with caplog.at_level(logging.WARNING, STORE_LOG):
        recorder.start()
        publish_dead_letter(direct, "one")
        letters_in(app, 1)
        forwarder.cut()
        publish_dead_letter(direct, "two")
        wait_for(lambda: tries.count("the broker") >= 4)
        forwarder.open()
        assert [letter.body for letter in letters_in(app, 2)] == [b"one", b"two"]
        recorder.stop(DEADLINE)
    assert not recorder.is_alive()
    assert outages(caplog, "the broker") == ["away", "back"]


def test_more_letters_than_a_batch_are_recorded_and_acknowledged(rabbit: NewApp, tmp_path: Path) -> None:
    app = rabbit(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3")
    queue = configuration.dead_letter_queue()
    with app.connection_for_write() as connection:
        producer = connection.Producer()
        for number in range(1200):
            producer.publish(
                str(number), exchange=queue.exchange, routing_key="games", declare=[queue], content_type="text/plain"
            )
    recorder = Recorder(app, app.dead_letter_store)
    recorder.start()
    wait_for(lambda: app.dead_letter_store.count() == 1200)
    recorder.stop(DEADLINE)
    assert dead_letters.count(app) == 0
    assert len({letter.body for letter in app.dead_letter_store.list(limit=2000)}) == 1200


def test_a_prefork_worker_keeps_the_dead_letters_of_its_children_and_ends_quickly(
    rabbit: NewApp, rabbitmq_url: str, tmp_path: Path
) -> None:
    (tmp_path / "prefork_tasks.py").write_text(
        "from liap_tasks import DeadLetterPolicy, RetryPolicy, create_app\n"
        "app = create_app(main='prefork_tasks')\n"
        "soon = DeadLetterPolicy(max_retries=1, retry_delay=0.1)\n"
        "@app.task(name='tests.prefork_dies', retry_policy=RetryPolicy(max_retries=0), dead_letter_policy=soon)\n"
        "def dies(text): raise ValueError(text)\n",
        encoding="utf-8",
    )
    store_url = f"sqlite:///{tmp_path}/letters.sqlite3"
    app = rabbit(dlq_store_url=store_url)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "prefork_tasks", "worker", "-P", "prefork", "-c", "2", "-l", "warning"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            "MESSAGE_QUEUE_URL": rabbitmq_url,
            "DLQ_STORE_URL": store_url,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        app.send_task("tests.prefork_dies", ("x",))
        store = app.dead_letter_store
        wait_for(lambda: store.exists() and store.stats().by_state == {"replayed": 1, "dead": 1})
        first, second = store.list()
        assert (second.replayed_from, second.replays, second.reason) == (first.id, 1, "retries_exhausted")
        worker.send_signal(signal.SIGTERM)
        output, _ = worker.communicate(timeout=DEADLINE)
        assert worker.returncode == 0, output
        assert "dead-letter store" not in output
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.communicate()
