"""Messages that the broker holds: listed, cancelled, rescheduled, in order, inside the bounds."""

from __future__ import annotations

import pytest

from tests.transports.virtual_broker import VirtualBroker
from transports.engine import ChannelRefusal, InvalidArgument, QueueFull


def broker_with_delays(*delays_ms: int) -> VirtualBroker:
    broker = VirtualBroker()
    broker.declare("q")
    for delay in delays_ms:
        broker.publish("q", b"%d" % delay, delay_ms=delay, headers={"id": f"task-{delay}"})
    return broker


def waiting(broker: VirtualBroker) -> list[tuple[float, bytes]]:
    return [(left, message.body) for left, message in broker.engine.delayed("q")]


def test_delayed_messages_are_listed_soonest_first_with_the_seconds_left() -> None:
    broker = broker_with_delays(3000, 1000, 2000)

    broker.clock.advance(0.5)

    assert waiting(broker) == [(0.5, b"1000"), (1.5, b"2000"), (2.5, b"3000")]
    assert broker.bodies("q") == []
    assert broker.numbers("q").delayed == 3


def test_a_delayed_message_becomes_ready_at_its_time() -> None:
    broker = broker_with_delays(1000)

    broker.clock.advance(0.999)
    assert broker.bodies("q") == []
    broker.clock.advance(0.001)

    assert broker.bodies("q") == [b"1000"]
    assert broker.numbers("q").oldest_ready_age == 0.0


def test_messages_due_at_the_same_time_become_ready_in_the_order_of_their_publishing() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    bodies = [b"%d" % number for number in range(50)]
    for body in bodies:
        broker.publish("q", body, delay_ms=1000)
    assert [body for _, body in waiting(broker)] == bodies

    broker.clock.advance(1)

    assert broker.bodies("q") == bodies


def test_a_message_without_delay_overtakes_a_delayed_one() -> None:
    broker = broker_with_delays(1000, 0)

    broker.clock.advance(1)

    assert broker.bodies("q") == [b"0", b"1000"]


def test_its_time_to_live_starts_when_it_becomes_ready() -> None:
    broker = VirtualBroker()
    broker.declare("q", message_ttl=1000)
    broker.publish("q", delay_ms=5000, expiration="2000")

    broker.clock.advance(5.9)
    assert broker.numbers("q").ready == 1
    broker.clock.advance(0.1)

    assert (broker.numbers("q").ready, broker.numbers("q").expired) == (0, 1)


def test_cancelling_removes_it_for_good_and_counts_it_as_purged() -> None:
    broker = broker_with_delays(1000, 2000)

    assert broker.engine.cancel_delayed("q", "task-1000") == 1
    assert broker.engine.cancel_delayed("q", "task-1000") == 0
    broker.clock.advance(10)

    numbers = broker.numbers("q")
    assert broker.bodies("q") == [b"2000"]
    assert (numbers.purged, numbers.delayed, numbers.bytes, numbers.enqueued) == (1, 0, 4, 2)


def test_every_message_of_the_id_is_cancelled() -> None:
    broker = broker_with_delays(1000, 1000, 2000)

    assert broker.engine.cancel_delayed("q", "task-1000") == 2
    assert [body for _, body in waiting(broker)] == [b"2000"]


@pytest.mark.parametrize(("delay", "order"), [(5.0, [b"2000", b"1000"]), (0.5, [b"1000", b"2000"])])
def test_rescheduling_counts_from_now(delay: float, order: list[bytes]) -> None:
    broker = broker_with_delays(1000, 2000)
    broker.clock.advance(0.5)

    assert broker.engine.reschedule("q", "task-1000", delay) == 1

    assert {body: left for left, body in waiting(broker)}[b"1000"] == delay
    broker.clock.advance(10)
    assert broker.bodies("q") == order


def test_rescheduling_to_now_makes_it_ready_at_once() -> None:
    broker = broker_with_delays(1000)

    assert broker.engine.reschedule("q", "task-1000", 0) == 1

    assert broker.bodies("q") == [b"1000"]
    assert broker.numbers("q").delayed == 0


@pytest.mark.parametrize("sooner", [[0], [0, 2], [1, 0, 4]])
def test_rescheduling_some_leaves_the_others_in_order(sooner: list[int]) -> None:
    broker = VirtualBroker()
    broker.declare("q")
    for number in range(9):
        broker.publish("q", b"%d" % number, delay_ms=3000, headers={"id": f"{number}"})

    for number in sooner:
        broker.clock.advance(0.01)
        broker.engine.reschedule("q", f"{number}", 1.0)
    broker.clock.advance(10)

    assert broker.bodies("q") == [b"%d" % n for n in sooner + [n for n in range(9) if n not in sooner]]


def test_rescheduling_back_and_forth_delivers_it_once() -> None:
    broker = broker_with_delays(1000)
    for delay in (2.0, 1.0, 2.0, 1.0, 3.0, 1.0) * 50:
        broker.engine.reschedule("q", "task-1000", delay)

    broker.clock.advance(10)

    assert broker.bodies("q") == [b"1000"]
    assert len(broker.engine.queue("q").delays._heap) < 200


@pytest.mark.parametrize("delay", [-0.1, float("nan"), float("inf"), 2**32 / 1000])
def test_a_delay_out_of_bounds_is_refused(delay: float) -> None:
    broker = broker_with_delays(1000)

    with pytest.raises(InvalidArgument) as refusal:
        broker.engine.reschedule("q", "task-1000", delay)

    assert refusal.value.name == "delay"
    assert [left for left, _ in waiting(broker)] == [1.0]


def test_ready_messages_are_not_cancelled() -> None:
    broker = VirtualBroker()
    broker.declare("q")
    broker.publish("q", b"ready", headers={"id": "task"})

    assert broker.engine.cancel_delayed("q", "task") == 0
    assert broker.engine.reschedule("q", "task", 1.0) == 0
    assert broker.bodies("q") == [b"ready"]


def test_a_missing_queue_is_not_found() -> None:
    broker = VirtualBroker()
    for ask in (
        lambda: broker.engine.delayed("q"),
        lambda: broker.engine.cancel_delayed("q", "id"),
        lambda: broker.engine.reschedule("q", "id", 1.0),
    ):
        with pytest.raises(ChannelRefusal, match="NOT_FOUND"):
            ask()


@pytest.mark.parametrize("bound", [{"max_length": 2}, {"max_length_bytes": 20}])
def test_delayed_messages_have_their_place_in_a_refusing_queue(bound: dict[str, int]) -> None:
    broker = VirtualBroker()
    broker.declare("q", overflow="reject-publish", **bound)
    for _ in range(2):
        broker.publish("q", b"0123456789", delay_ms=1000)

    with pytest.raises(QueueFull):
        broker.publish("q", b"0123456789", delay_ms=1000)
    with pytest.raises(QueueFull):
        broker.publish("q", b"0123456789")

    broker.clock.advance(1)
    assert broker.numbers("q").ready == 2


def test_a_queue_with_delayed_messages_is_not_deleted_if_empty_is_asked() -> None:
    broker = broker_with_delays(1000)
    with pytest.raises(ChannelRefusal, match="queue 'q' in vhost '/' not empty"):
        broker.engine.delete_queue(broker.connection, "q", if_empty=True)

    broker.engine.cancel_delayed("q", "task-1000")
    broker.engine.delete_queue(broker.connection, "q", if_empty=True)
    assert "q" not in broker.engine.queues


def test_purge_leaves_delayed_messages() -> None:
    broker = broker_with_delays(1000, 0)

    assert broker.purge("q") == 1
    broker.clock.advance(1)

    assert broker.bodies("q") == [b"1000"]
