"""Whether and when a dead letter is tried again by itself: a pure decision."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liap_tasks import DeadLetterPolicy, DeadLetterReason

TRANSIENT = {"retries_exhausted", "timed_out", "worker_lost"}


@pytest.mark.parametrize("reason", DeadLetterReason)
def test_only_what_may_pass_by_itself_is_retried(reason: DeadLetterReason) -> None:
    due = DeadLetterPolicy(retry_delay=60).retry_at(reason, replays=0, died_at=1000.0)
    assert due == (1060.0 if reason.value in TRANSIENT else None)


def test_a_policy_chooses_its_reasons_and_their_delays() -> None:
    policy = DeadLetterPolicy(
        retry_reasons=["expired", DeadLetterReason.TIMED_OUT],
        retry_delay=60,
        reason_delays={"timed_out": timedelta(minutes=5)},
    )
    due = {reason.value: policy.retry_at(reason, replays=0, died_at=0.0) for reason in DeadLetterReason}
    assert {reason: at for reason, at in due.items() if at is not None} == {"expired": 60.0, "timed_out": 300.0}
    assert policy.retry_at("a word of other software", replays=0, died_at=0.0) is None


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (DeadLetterPolicy(retry_delay=60), [60.0, 120.0, 240.0]),
        (DeadLetterPolicy(retry_delay=60, max_delay=200), [60.0, 120.0, 200.0]),
        (DeadLetterPolicy(retry_delay=60, exponential_backoff=False), [60.0, 60.0, 60.0]),
        (DeadLetterPolicy(retry_delay=60, max_delay=10), [10.0, 10.0, 10.0]),
        (DeadLetterPolicy(retry_delay=0), [0.0, 0.0, 0.0]),
    ],
)
def test_the_delay_doubles_up_to_its_cap(policy: DeadLetterPolicy, delays: list[float]) -> None:
    assert [policy.delay("timed_out", replays) for replays in range(3)] == delays


@pytest.mark.parametrize(("replays", "retried"), [(0, True), (2, True), (3, False), (4, False)])
def test_retries_end_after_max_retries(replays: int, retried: bool) -> None:
    due = DeadLetterPolicy(max_retries=3).retry_at("timed_out", replays=replays, died_at=0.0)
    assert (due is not None) is retried


def test_a_disabled_policy_retries_nothing() -> None:
    assert DeadLetterPolicy(enabled=False).retry_at("timed_out", replays=0, died_at=0.0) is None


@given(replays=st.integers(0, 10**6), first=st.floats(0, 1e6), cap=st.floats(0, 1e6))
def test_no_delay_is_longer_than_the_cap(replays: int, first: float, cap: float) -> None:
    policy = DeadLetterPolicy(max_retries=10**7, retry_delay=first, max_delay=cap)
    assert 0 <= policy.delay("timed_out", replays) <= cap


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_delay", -1),
        ("retry_reasons", ["boredom"]),
        ("reason_delays", {"boredom": 1}),
        ("reason_delays", {"timed_out": -1}),
    ],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        DeadLetterPolicy(**{field: value})
