"""What a published message carries: metadata, priority, TTL, delay; and what the publisher learns."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from liap_tasks import (
    DeadLetterReason,
    DeliveryOptions,
    EmbeddedWorker,
    LiapApp,
    MessageMetadata,
    MessagePriority,
    QueueFullError,
    RetryPolicy,
    dead_letters,
)
from liap_tasks.metadata import Attempt, first_headers
from tests.liap_tasks.conftest import Outcomes
from transports import VirtualClock, reset_broker

Stats = Callable[..., dict[str, float]]


@pytest.fixture
def clock(app: LiapApp) -> VirtualClock:
    """The virtual clock of the app's broker."""
    clock = VirtualClock()
    reset_broker(app.settings.broker_url, clock=clock)
    return clock


def messages(app: LiapApp) -> list[Any]:
    with app.connection_for_read() as connection, connection.channel() as channel:
        return channel.peek(app.conf.task_default_queue, 100)


def plain_task(app: LiapApp, **options: Any) -> Any:
    @app.task(shared=False, name="tests.plain", **options)
    def plain() -> None: ...

    return plain


# -- delay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(lambda: {"countdown": 60}, id="countdown"),
        pytest.param(lambda: {"eta": datetime.now(UTC) + timedelta(seconds=60)}, id="aware eta"),
        pytest.param(lambda: {"eta": datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=60)}, id="naive eta"),
        pytest.param(lambda: {"delivery": DeliveryOptions(delay=60)}, id="delivery options"),
    ],
)
def test_a_delayed_task_is_held_by_the_broker_and_not_by_the_worker(
    app: LiapApp, clock: VirtualClock, outcomes: Outcomes, stats: Stats, options: Callable[[], dict[str, Any]]
) -> None:
    task = plain_task(app)
    with EmbeddedWorker(app):
        task.apply_async(**options())
        assert (stats(app)["delayed"], stats(app)["unacked"]) == (1, 0)
        clock.advance(59)
        assert stats(app)["delayed"] == 1
        clock.advance(1.001)
        assert outcomes.next().state == "SUCCESS"
    assert stats(app)["acknowledged"] == 1


def test_a_task_sent_by_name_is_held_too(app: LiapApp, clock: VirtualClock, stats: Stats) -> None:
    app.send_task("tests.of_somebody_else", countdown=0.25)
    assert stats(app)["delayed"] == 1
    clock.advance(0.25)
    assert stats(app)["ready"] == 1


def test_a_retry_is_held_by_the_broker_for_less_than_a_second(
    app: LiapApp, clock: VirtualClock, outcomes: Outcomes, stats: Stats
) -> None:
    policy = RetryPolicy(max_retries=1, initial_delay=0.2, jitter=False)

    @app.task(shared=False, bind=True, name="tests.again", retry_policy=policy)
    def again(self: Any) -> None:
        if self.attempt == 1:
            raise OSError("once")

    with EmbeddedWorker(app):
        again.apply_async(countdown=5)
        clock.advance(5)
        assert outcomes.next().state == "RETRY"
        clock.advance(0.199)
        assert stats(app)["delayed"] == 1
        clock.advance(0.001)
        assert outcomes.next().state == "SUCCESS"


def test_an_eta_in_the_past_is_delivered_at_once(app: LiapApp, stats: Stats) -> None:
    plain_task(app).apply_async(eta=datetime.now(UTC) - timedelta(hours=1))
    assert stats(app)["ready"] == 1


def test_a_transport_that_holds_no_delays_gets_celery_s_eta(new_app: Callable[..., LiapApp]) -> None:
    app = new_app(message_queue_url="memory://delays")
    plain_task(app).apply_async(countdown=60)
    with app.connection_for_read() as connection, connection.SimpleQueue(app.conf.task_default_queue) as queue:
        message = queue.get(timeout=1)
        assert message.headers["eta"] is not None
        assert "x-delay" not in message.headers
        message.ack()


# -- TTL, priority, bounds -------------------------------------------------------------------------------------


def test_a_message_that_waits_longer_than_its_ttl_is_a_dead_letter(
    app: LiapApp, clock: VirtualClock, stats: Stats
) -> None:
    sent = plain_task(app).apply_async(delivery=DeliveryOptions(ttl=5))
    clock.advance(5)
    assert stats(app)["ready"] == 0
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.id) == (DeadLetterReason.EXPIRED, sent.id)
    assert letter.queue == app.conf.task_default_queue


def test_the_queue_s_ttl_is_the_setting(new_app: Callable[..., LiapApp], stats: Stats) -> None:
    app = new_app(default_message_ttl=7)
    clock = VirtualClock()
    reset_broker(app.settings.broker_url, clock=clock)
    plain_task(app).delay()
    clock.advance(6.9)
    assert dead_letters.count(app) == 0
    clock.advance(0.1)
    assert dead_letters.count(app) == 1


def test_dead_letters_outlive_every_ttl(app: LiapApp, clock: VirtualClock, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.fails", retry_policy=RetryPolicy(max_retries=0))
    def fails() -> None:
        raise OSError

    with EmbeddedWorker(app):
        fails.apply_async(delivery=DeliveryOptions(ttl=5, delay=1))
        clock.advance(1)
        assert outcomes.next().state == "FAILURE"
    clock.advance(3600 * 24 * 30)
    assert dead_letters.count(app) == 1


def test_a_full_queue_refuses_the_publisher_by_name(new_app: Callable[..., LiapApp], stats: Stats) -> None:
    app = new_app(max_queue_size=2)
    task = plain_task(app)
    task.delay()
    task.delay()
    with pytest.raises(QueueFullError) as refused:
        task.delay()
    assert refused.value.queue == app.conf.task_default_queue
    assert refused.value.max_length == 2
    assert refused.value.retry_after > 0
    assert stats(app)["ready"] == 2


def test_a_queue_nobody_configured_has_the_same_bounds(new_app: Callable[..., LiapApp]) -> None:
    app = new_app(max_queue_size=1)
    task = plain_task(app)
    task.apply_async(queue="elsewhere")
    with pytest.raises(QueueFullError):
        task.apply_async(queue="elsewhere")


def test_the_dead_letter_queue_exists_from_the_first_publish_on_and_has_no_bounds(app: LiapApp) -> None:
    plain_task(app).delay()
    with app.connection_for_read() as connection, connection.channel() as channel:
        # Redeclared with other arguments the broker would refuse.
        declared = channel.queue_declare(dead_letters.dead_letter_queue().name, durable=True, auto_delete=False)
    assert declared.message_count == 0


@pytest.mark.parametrize("scheme", ["liap-memory", "liap-priority"])
def test_priorities_travel_with_the_message(new_app: Callable[..., LiapApp], scheme: str) -> None:
    app = new_app(message_queue_url=f"{scheme}:///priorities-{scheme}-{time.time_ns()}")
    urgent = plain_task(app, priority=MessagePriority.HIGH)
    urgent.delay()
    urgent.apply_async(priority=MessagePriority.LOW)
    urgent.apply_async(delivery=DeliveryOptions(priority=MessagePriority.CRITICAL))
    app.send_task("tests.of_somebody_else")
    assert sorted(message.properties["priority"] for message in messages(app)) == [1, 4, 7, 9]


def test_a_priority_queue_delivers_the_most_urgent_first(new_app: Callable[..., LiapApp], outcomes: Outcomes) -> None:
    app = new_app(message_queue_url=f"liap-priority:///order-{time.time_ns()}")
    task = plain_task(app)
    sent = {level: task.apply_async(delivery=DeliveryOptions(priority=level)).id for level in MessagePriority}
    with EmbeddedWorker(app, pool="solo"):
        order = [outcomes.next().id for _ in sent]
    assert order == [sent[level] for level in sorted(MessagePriority, reverse=True)]


def test_a_priority_on_the_task_raises_no_warning(app: LiapApp) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = plain_task(app, priority=MessagePriority.HIGH)
        assert task.priority == MessagePriority.HIGH
        app.finalize()


# -- metadata --------------------------------------------------------------------------------------------------


def read_metadata(app: LiapApp, outcomes: Outcomes, **options: Any) -> MessageMetadata:
    seen: list[MessageMetadata] = []

    @app.task(shared=False, bind=True, name="tests.reads_metadata")
    def reads_metadata(self: Any) -> None:
        seen.append(self.metadata)

    before = time.time()
    with EmbeddedWorker(app):
        reads_metadata.apply_async(**options)
        assert outcomes.next().state == "SUCCESS"
    (metadata,) = seen
    assert metadata.timestamp is not None
    assert before <= metadata.timestamp <= time.time()
    return metadata


def test_the_task_reads_who_sent_its_message_and_when(app: LiapApp, outcomes: Outcomes) -> None:
    metadata = read_metadata(app, outcomes)
    assert metadata.source == "tests"
    assert metadata.correlation_id is None
    assert metadata.attempts == ()


def test_the_correlation_id_of_the_caller_arrives(app: LiapApp, outcomes: Outcomes) -> None:
    metadata = read_metadata(app, outcomes, delivery=DeliveryOptions(correlation_id="game-7"))
    assert metadata.correlation_id == "game-7"


def test_a_task_s_tasks_inherit_its_correlation_id(app: LiapApp, outcomes: Outcomes) -> None:
    seen: list[MessageMetadata] = []

    @app.task(shared=False, bind=True, name="tests.child")
    def child(self: Any) -> None:
        seen.append(self.metadata)

    @app.task(shared=False, name="tests.parent")
    def parent() -> None:
        child.delay()

    with EmbeddedWorker(app):
        parent.apply_async(delivery=DeliveryOptions(correlation_id="game-7"))
        assert outcomes.states(2) == ["SUCCESS", "SUCCESS"]
    assert [(metadata.source, metadata.correlation_id) for metadata in seen] == [("tests.parent", "game-7")]


def test_a_retry_keeps_the_metadata_of_the_first_publish(app: LiapApp, outcomes: Outcomes) -> None:
    seen: list[MessageMetadata] = []

    @app.task(shared=False, bind=True, name="tests.keeps", retry_policy=RetryPolicy(max_retries=1, max_delay=0))
    def keeps(self: Any) -> None:
        seen.append(self.metadata)
        if self.attempt == 1:
            raise OSError("once")

    with EmbeddedWorker(app, pool="solo"):
        keeps.apply_async(delivery=DeliveryOptions(correlation_id="game-7"))
        assert outcomes.states(2) == ["RETRY", "SUCCESS"]
    first, second = seen
    assert (second.source, second.correlation_id, second.timestamp) == (
        first.source,
        "game-7",
        first.timestamp,
    )
    assert [(attempt.number, attempt.error, attempt.message) for attempt in second.attempts] == [(1, "OSError", "once")]


def test_results_still_reach_a_caller_that_set_a_correlation_id(app: LiapApp) -> None:
    @app.task(shared=False, name="tests.answers")
    def answers() -> int:
        return 42

    with EmbeddedWorker(app):
        result = answers.apply_async(delivery=DeliveryOptions(correlation_id="game-7"), ignore_result=False)
        assert result.get(timeout=5) == 42


@pytest.mark.parametrize(
    "metadata",
    [
        MessageMetadata(),
        MessageMetadata(source="game", correlation_id="c", timestamp=1.5, deadline=2.5, replayed_from="l", replays=2),
        MessageMetadata().after(Attempt(number=1, at=3.5, error="KeyError", message="'x'")),
    ],
)
def test_metadata_written_by_hand_are_what_the_model_says(metadata: MessageMetadata) -> None:
    written = metadata.as_headers()
    assert MessageMetadata.from_headers(written) == metadata
    assert written["liap"] == metadata.model_dump(
        mode="json", exclude_none=True, exclude=None if metadata.replays else {"replays"}
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "", "timestamp": 1.5},
        {"source": "game", "timestamp": 1.5, "correlation_id": "c", "deadline": 2.5},
    ],
)
def test_the_first_metadata_of_a_message_are_the_model_s(fields: dict[str, Any]) -> None:
    assert first_headers(**fields) == MessageMetadata(**fields).as_headers()
