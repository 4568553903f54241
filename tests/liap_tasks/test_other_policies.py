"""Priorities, delivery options, dead-letter reasons: values with bounds."""

from __future__ import annotations

import pickle
from datetime import timedelta

import pytest

from liap_tasks import DeadLetter, DeadLetterPolicy, DeadLetterReason, DeliveryOptions, MessagePriority


def test_priorities_are_the_documented_numbers() -> None:
    assert {level.name: int(level) for level in MessagePriority} == {"LOW": 1, "NORMAL": 4, "HIGH": 7, "CRITICAL": 9}


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (DeliveryOptions(), {}),
        (DeliveryOptions(ttl=5), {"expiration": 5.0}),
        (DeliveryOptions(ttl=timedelta(minutes=5)), {"expiration": 300.0}),
        (DeliveryOptions(delay=timedelta(milliseconds=250)), {"countdown": 0.25}),
        (DeliveryOptions(priority=MessagePriority.HIGH), {"priority": 7}),
        (DeliveryOptions(priority=0), {"priority": 0}),
    ],
)
def test_delivery_options_become_options_of_apply_async(given: DeliveryOptions, options: dict[str, object]) -> None:
    assert given.as_execution_options() == options


@pytest.mark.parametrize(
    ("field", "value"),
    [("ttl", -1), ("ttl", "5"), ("delay", float("nan")), ("priority", 256), ("priority", -1), ("priority", True)],
)
def test_a_delivery_option_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        DeliveryOptions(**{field: value})


def test_the_reasons_are_the_documented_ones() -> None:
    assert {reason.value for reason in DeadLetterReason} == {
        *("rejected", "expired", "maxlen", "delivery_limit"),
        *("retries_exhausted", "processing_failed", "validation_failed", "timed_out"),
        *("no_handler", "undecodable", "unknown_version", "worker_lost", "manual"),
    }


def test_a_verdict_needs_a_known_reason() -> None:
    assert DeadLetter("manual").reason is DeadLetterReason.MANUAL
    with pytest.raises(ValueError, match="boredom"):
        DeadLetter("boredom")


def test_a_verdict_survives_pickling_as_prefork_workers_do_it() -> None:
    verdict = DeadLetter(DeadLetterReason.MANUAL, "cheater")
    assert pickle.loads(pickle.dumps(verdict)) == verdict


@pytest.mark.parametrize(("field", "value"), [("max_retries", -1), ("retry_delay", -1), ("ttl", 0)])
def test_a_dead_letter_policy_refuses_wrong_values_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        DeadLetterPolicy(**{field: value})
