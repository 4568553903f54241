"""What a dead letter carries (RabbitMQ docs, Dead Letter Exchanges, Effects), and when a cycle ends."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from transports.engine import Message
from transports.engine.dead_letter import dead_letter_of, ends_in_cycle

AT = 1_700_000_000.75


def die(message: Message, queue: str, reason: Any = "rejected", routing_key: str | None = None) -> Message:
    return dead_letter_of(message, queue=queue, reason=reason, exchange="dlx", routing_key=routing_key, at=AT)


def published(headers: dict[str, Any] | None = None, **properties: Any) -> Message:
    return Message(b"body", properties, headers, "orders", "order.new")


def deaths(message: Message) -> list[dict[str, Any]]:
    found = (message.headers or {})["x-death"]
    assert isinstance(found, list)
    return found


def test_the_first_death_is_written_as_rabbitmq_writes_it() -> None:
    letter = die(published({"id": "1"}), "q", "expired")

    assert letter.headers == {
        "id": "1",
        "x-death": [
            {
                "count": 1,
                "reason": "expired",
                "queue": "q",
                "time": datetime(2023, 11, 14, 22, 13, 20),
                "exchange": "orders",
                "routing-keys": ["order.new"],
            }
        ],
        "x-first-death-reason": "expired",
        "x-first-death-queue": "q",
        "x-first-death-exchange": "orders",
    }


def test_a_letter_goes_to_the_dead_letter_exchange_with_its_own_key_or_the_one_given() -> None:
    assert (die(published(), "q").exchange, die(published(), "q").routing_key) == ("dlx", "order.new")
    assert die(published(), "q", routing_key="dead").routing_key == "dead"
    assert die(published(), "q", routing_key="").routing_key == ""


def test_the_same_death_again_only_counts_up() -> None:
    letter = published()
    for _ in range(3):
        letter = die(letter, "q", "expired")

    assert [(death["queue"], death["reason"], death["count"]) for death in deaths(letter)] == [("q", "expired", 3)]


def test_the_newest_death_comes_first_and_the_first_death_stays() -> None:
    letter = die(die(die(published(), "a", "rejected"), "b", "expired"), "a", "rejected")

    assert [(death["queue"], death["count"]) for death in deaths(letter)] == [("a", 2), ("b", 1)]
    assert letter.headers is not None
    assert letter.headers["x-first-death-queue"] == "a"
    assert letter.headers["x-first-death-reason"] == "rejected"
    assert letter.headers["x-first-death-exchange"] == "orders"


def test_another_reason_in_the_same_queue_is_another_death() -> None:
    letter = die(die(published(), "q", "rejected"), "q", "maxlen")

    assert [(death["reason"], death["count"]) for death in deaths(letter)] == [("maxlen", 1), ("rejected", 1)]


def test_the_message_ttl_is_taken_off_and_remembered() -> None:
    letter = die(published(expiration="5000", priority=3), "q", "expired")

    assert letter.ttl is None
    assert letter.properties == {"priority": 3}
    assert letter.priority == 3
    assert deaths(letter)[0]["original-expiration"] == "5000"


def test_the_dead_message_itself_is_not_changed() -> None:
    message = die(published({"nested": {"a": 1}}, expiration="5000"), "q")
    before = (dict(message.properties), dict(message.headers or {}), [dict(death) for death in deaths(message)])

    die(message, "q")
    die(message, "other")

    assert (message.properties, message.headers, deaths(message)) == before


def test_the_body_is_the_same_object() -> None:
    message = published()

    assert die(message, "q").body is message.body


@pytest.mark.parametrize(
    "forged",
    [
        "text",
        ["text"],
        [{}],
        [{"queue": "q", "reason": "rejected"}],
        [{"queue": "q", "reason": "rejected", "count": "many"}],
        [{"queue": "q", "reason": "rejected", "count": None}],
        [{"queue": "q", "reason": "rejected", "count": True}],
        [{"queue": "q", "reason": "rejected", "count": -5}],
        [{"queue": "q", "reason": "rejected", "count": 2**64 - 1}],
        [{"queue": {"q": 1}, "reason": ["rejected"]}],
    ],
)
def test_a_history_that_a_publisher_made_up_does_not_stop_dead_lettering(forged: Any) -> None:
    letter = die(published({"x-death": forged}), "q", "rejected")

    assert (deaths(letter)[0]["queue"], deaths(letter)[0]["reason"]) == ("q", "rejected")
    assert 1 <= deaths(letter)[0]["count"] < 2**63


@pytest.mark.parametrize(
    ("history", "queue", "ends"),
    [
        ([("a", "expired")], "a", True),
        ([("a", "maxlen")], "a", True),
        ([("a", "delivery_limit")], "a", True),
        ([("a", "rejected")], "a", False),
        ([("a", "expired")], "b", False),
        ([("a", "expired"), ("b", "expired")], "a", True),
        ([("a", "rejected"), ("b", "expired")], "a", False),
        ([("a", "expired"), ("b", "rejected")], "a", False),
        # The rejection is older than the cycle back to b, so that cycle is automatic.
        ([("a", "rejected"), ("b", "expired")], "b", True),
    ],
)
def test_a_cycle_without_a_rejection_ends(history: list[tuple[str, str]], queue: str, ends: bool) -> None:
    letter = published()
    for died_in, reason in history:
        letter = die(letter, died_in, reason)

    assert ends_in_cycle(letter, queue) is ends


def test_a_message_that_never_died_is_in_no_cycle() -> None:
    assert not ends_in_cycle(published(), "q")
    assert not ends_in_cycle(published({}), "q")
