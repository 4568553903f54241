"""One event, one task for each subscriber: each once, each with its own retries, none in another's way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest
from pydantic import BaseModel

from liap_tasks import (
    BrokerUnavailableError,
    DeadLetterReason,
    EmbeddedWorker,
    EventExchange,
    LiapApp,
    MessagePriority,
    QueueFullError,
    RetryPolicy,
    dead_letters,
)
from liap_tasks.events import delivery_id
from tests.liap_tasks.conftest import Outcomes

Stats = Callable[..., dict[str, float]]


class Played(BaseModel):
    room: str
    pieces: int


class Table:
    """An app with an exchange and subscribers that note what they get."""

    def __init__(self, app: LiapApp) -> None:
        self.app = app
        self.events = EventExchange(app, "table_events")
        self.got: list[tuple[str, Any]] = []

    def subscriber(self, name: str, *patterns: str, fails: int = 0, **options: Any) -> None:
        left = [fails]

        @self.app.task(shared=False, name=name, **options)
        def receive(body: dict[str, Any]) -> None:
            self.got.append((name, body))
            if left[0] > 0:
                left[0] -= 1
                raise OSError(name)

        for pattern in patterns:
            self.events.subscribe(pattern, name)

    def names(self) -> Counter[str]:
        return Counter(name for name, _ in self.got)


@pytest.fixture
def table(app: LiapApp) -> Table:
    return Table(app)


def test_each_subscriber_whose_pattern_matches_gets_the_event_once(table: Table, outcomes: Outcomes) -> None:
    table.subscriber("tests.scores", "game.*", "game.ended")
    table.subscriber("tests.all", "#")
    table.subscriber("tests.rooms", "room.#")
    with EmbeddedWorker(table.app):
        table.events.publish("game.ended", Played(room="r1", pieces=3))
        outcomes.states(2)
    assert sorted(table.got) == [
        ("tests.all", {"room": "r1", "pieces": 3}),
        ("tests.scores", {"room": "r1", "pieces": 3}),
    ]
    assert sorted(table.events.subscribers("game.ended")) == ["tests.all", "tests.scores"]


def test_a_delivery_s_id_is_the_uuid_of_its_event_and_subscriber() -> None:
    assert delivery_id("e-1", "tests.scores") == str(uuid5(NAMESPACE_URL, "e-1/tests.scores"))


def test_an_event_waits_for_a_worker_that_starts_later(table: Table, outcomes: Outcomes) -> None:
    table.subscriber("tests.later", "#")
    table.events.publish("game.started", {})
    with EmbeddedWorker(table.app):
        assert outcomes.next().task == "tests.later"


def test_a_retry_comes_back_to_the_failing_subscriber_alone(table: Table, outcomes: Outcomes, stats: Stats) -> None:
    policy = RetryPolicy(max_retries=2, initial_delay=0.001, jitter=False)
    table.subscriber("tests.shaky", "game.*", fails=2, retry_policy=policy)
    table.subscriber("tests.steady", "game.*")
    with EmbeddedWorker(table.app, pool="solo"):
        table.events.publish("game.ended", {})
        outcomes.states(4)
    assert table.names() == {"tests.shaky": 3, "tests.steady": 1}
    assert dead_letters.count(table.app) == 0
    assert stats(table.app, "tests.steady")["enqueued"] == 1


def test_a_dead_letter_names_the_subscriber_it_was_for(table: Table, outcomes: Outcomes) -> None:
    table.subscriber("tests.broken", "#", fails=1, retry_policy=RetryPolicy(max_retries=0))
    table.subscriber("tests.steady", "#")
    with EmbeddedWorker(table.app):
        event = table.events.publish("game.ended", {"room": "r1"})
        states = {(outcome.task, outcome.state) for outcome in (outcomes.next(), outcomes.next())}
    assert states == {("tests.broken", "FAILURE"), ("tests.steady", "SUCCESS")}
    (letter,) = dead_letters.peek(table.app)
    assert letter.reason is DeadLetterReason.RETRIES_EXHAUSTED
    assert (letter.task, letter.queue, letter.args) == ("tests.broken", "tests.broken", ({"room": "r1"},))
    assert letter.id is not None
    assert letter.id != event


def test_the_same_event_has_the_same_task_id_for_a_subscriber_and_another_for_each(
    table: Table, outcomes: Outcomes
) -> None:
    table.subscriber("tests.one", "#")
    table.subscriber("tests.two", "#")
    with EmbeddedWorker(table.app, pool="solo"):
        for _ in range(2):
            table.events.publish("game.ended", {}, event_id="0b5e3a43-6cf8-4a0b-8d7a-2f4b7f1c9e11")
        ended = [outcomes.next() for _ in range(4)]
    assert len({outcome.id for outcome in ended}) == 2
    assert len({(outcome.id, outcome.task) for outcome in ended}) == 2


def test_a_worker_of_chosen_queues_serves_only_those_subscribers(
    table: Table, outcomes: Outcomes, stats: Stats
) -> None:
    table.subscriber("tests.chosen", "#")
    table.subscriber("tests.other", "#")
    with EmbeddedWorker(table.app, queues=["tests.chosen"]):
        table.events.publish("game.ended", {})
        assert outcomes.next().task == "tests.chosen"
    assert table.names() == {"tests.chosen": 1}
    assert stats(table.app, "tests.other")["ready"] == 1


def test_a_subscriber_added_after_the_first_publish_gets_the_next_event(table: Table, outcomes: Outcomes) -> None:
    table.subscriber("tests.early", "#")
    table.events.publish("game.started", {})
    table.subscriber("tests.late", "#")
    table.events.publish("game.ended", {})
    with EmbeddedWorker(table.app):
        outcomes.states(3)
    assert table.names() == {"tests.early": 2, "tests.late": 1}


def test_a_second_pattern_of_a_known_subscriber_counts_from_the_next_publish(table: Table, outcomes: Outcomes) -> None:
    table.subscriber("tests.widens", "game.*")
    table.events.publish("game.started", {})
    table.events.subscribe("room.*", "tests.widens")
    table.events.publish("room.closed", {"room": "r1"})
    with EmbeddedWorker(table.app):
        outcomes.states(2)
    assert {str(body) for _, body in table.got} == {"{}", "{'room': 'r1'}"}


def test_an_event_nobody_subscribed_to_is_no_error(table: Table) -> None:
    table.subscriber("tests.rooms", "room.#")
    table.events.publish("game.ended", {})
    assert table.events.subscribers("game.ended") == []


def test_a_full_subscriber_is_named_and_the_others_have_the_event(
    new_app: Callable[..., LiapApp], stats: Stats
) -> None:
    table = Table(new_app(max_queue_size=1))
    table.subscriber("tests.full", "game.*")
    table.events.publish("game.started", {})
    table.subscriber("tests.free", "game.*")
    with pytest.raises(QueueFullError) as refused:
        table.events.publish("game.ended", {})
    assert refused.value.queue == "tests.full"
    assert stats(table.app, "tests.free")["ready"] == 1


def test_a_backend_may_declare_everything_before_its_first_event(table: Table, stats: Stats) -> None:
    table.subscriber("tests.early", "game.*")
    table.events.declare()
    assert stats(table.app, "tests.early")["ready"] == 0


def test_it_learns_there_that_the_broker_is_away(new_app: Callable[..., LiapApp], tmp_path: Path) -> None:
    table = Table(new_app(message_queue_url=f"liap-broker://{tmp_path}/nobody.sock"))
    table.subscriber("tests.early", "game.*")
    with pytest.raises(BrokerUnavailableError, match=r"nobody\.sock"):
        table.events.declare()
    table.app.conf.task_always_eager = True  # then nobody needs it
    table.events.declare()


def test_an_event_may_be_urgent(new_app: Callable[..., LiapApp]) -> None:
    table = Table(new_app())
    table.subscriber("tests.urgent", "#")
    table.events.publish("game.ended", {}, priority=MessagePriority.CRITICAL)
    with table.app.connection_for_read() as connection, connection.channel() as channel:
        (message,) = channel.peek("tests.urgent", 1)
    assert message.properties["priority"] == 9


def test_eager_mode_runs_every_subscriber_here_and_now(table: Table) -> None:
    table.app.conf.task_always_eager = True
    table.subscriber("tests.shaky", "game.*", fails=1, retry_policy=RetryPolicy(max_retries=1))
    table.subscriber("tests.broken", "game.*", fails=9, retry_policy=RetryPolicy(max_retries=0))
    table.subscriber("tests.steady", "#")
    table.events.publish("game.ended", Played(room="r1", pieces=3))
    assert table.names() == {"tests.shaky": 2, "tests.broken": 1, "tests.steady": 1}
    assert [letter.task for letter in dead_letters.peek(table.app)] == ["tests.broken"]


def test_events_reach_their_subscribers_over_rabbitmq_too(
    new_app: Callable[..., LiapApp], rabbitmq_url: str, outcomes: Outcomes
) -> None:
    table = Table(new_app(message_queue_url=rabbitmq_url))
    policy = RetryPolicy(max_retries=1, initial_delay=0.05, jitter=False)
    table.subscriber("tests.shaky", "game.*", fails=1, retry_policy=policy)
    table.subscriber("tests.steady", "#")
    table.subscriber("tests.rooms", "room.*")
    table.events.declare()
    with EmbeddedWorker(table.app):
        table.events.publish("game.ended", {"room": "r1"})
        outcomes.states(3)
    assert table.names() == {"tests.shaky": 2, "tests.steady": 1}
