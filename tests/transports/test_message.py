"""What a message's priority, time to live and delay may be."""

from __future__ import annotations

from typing import Any

import pytest

from transports.engine import InvalidArgument, Message
from transports.engine.message import MAX_DELAY_MS


def message(properties: dict[str, Any] | None = None, headers: dict[str, Any] | None = None) -> Message:
    return Message(b"body", properties or {}, headers, "", "q")


@pytest.mark.parametrize(("given", "kept"), [(None, 0), (0, 0), (7, 7), (255, 255)])
def test_a_priority_from_0_to_255_is_kept(given: int | None, kept: int) -> None:
    assert message({"priority": given}).priority == kept


@pytest.mark.parametrize("given", [-1, 256, "5", 1.0, True, False])
def test_another_priority_is_refused(given: Any) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        message({"priority": given})

    assert (refusal.value.name, refusal.value.value) == ("priority", given)
    assert "0 to 255" in refusal.value.allowed


@pytest.mark.parametrize(("given", "seconds"), [("0", 0.0), ("1500", 1.5), ("007", 0.007)])
def test_an_expiration_is_a_string_of_milliseconds(given: str, seconds: float) -> None:
    assert message({"expiration": given}).ttl == seconds


def test_without_expiration_there_is_no_ttl() -> None:
    assert message().ttl is None
    assert message({"expiration": None}).ttl is None


@pytest.mark.parametrize("given", ["", "-1", "1.5", "1s", " 1", "+1", "1_000", "١", 1000, 1.5, b"1000"])
def test_another_expiration_is_refused_by_name(given: Any) -> None:
    with pytest.raises(InvalidArgument, match="milliseconds") as caught:
        message({"expiration": given})
    assert (caught.value.name, caught.value.value) == ("expiration", given)


@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_an_expiration_beyond_any_clock_is_refused_by_name(digits: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        message({"expiration": "9" * digits})
    assert caught.value.name == "expiration"


@pytest.mark.parametrize(("given", "seconds"), [(0, 0.0), (1500, 1.5), (MAX_DELAY_MS, MAX_DELAY_MS / 1000)])
def test_a_delay_is_whole_milliseconds_and_its_header_is_taken_off(given: int, seconds: float) -> None:
    delayed = message(headers={"x-delay": given, "id": "1"})

    assert delayed.delay == seconds
    assert delayed.headers == {"id": "1"}


@pytest.mark.parametrize("given", [-1, MAX_DELAY_MS + 1, "1000", 1.5, True, None])
def test_another_delay_is_refused(given: Any) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        message(headers={"x-delay": given})

    assert (refusal.value.name, refusal.value.value) == ("x-delay", given)
    assert str(MAX_DELAY_MS) in refusal.value.allowed


@pytest.mark.parametrize(
    ("properties", "headers", "identity"),
    [
        ({"message_id": "m", "correlation_id": "c"}, {"id": "task"}, "task"),
        ({"message_id": "m", "correlation_id": "c"}, {}, "m"),
        ({"correlation_id": "c"}, None, "c"),
        ({}, {"id": 7}, "7"),
        ({}, None, None),
    ],
)
def test_people_name_a_message_by_its_task_id(properties: Any, headers: Any, identity: str | None) -> None:
    assert message(properties, headers).identity == identity


def test_size_counts_the_body() -> None:
    assert message(headers={"large": "x" * 100}).size == 4
