"""The retry decision is a pure function: by table, and by property."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liap_tasks import DeadLetter, DeadLetterReason, RetryPolicy
from liap_tasks.policies import Retry

SEED = 7


def decide(policy: RetryPolicy, error: BaseException, attempt: int) -> Retry | DeadLetter:
    return policy.decide(error, attempt=attempt, rng=Random(SEED))


@pytest.mark.parametrize(
    ("attempt", "delay"),
    [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (6, 10.0)],
)
def test_exponential_delays_grow_up_to_the_cap(attempt: int, delay: float) -> None:
    policy = RetryPolicy(max_retries=9, initial_delay=1, multiplier=2, max_delay=10, jitter=False)
    assert decide(policy, OSError(), attempt) == Retry(delay)


def test_constant_delays_do_not_grow() -> None:
    policy = RetryPolicy(max_retries=9, initial_delay=0.25, exponential=False, jitter=False)
    assert [decide(policy, OSError(), attempt) for attempt in (1, 2, 9)] == [Retry(0.25)] * 3


def test_the_attempt_after_the_last_retry_exhausts_the_retries() -> None:
    policy = RetryPolicy(max_retries=2, jitter=False)
    assert isinstance(decide(policy, OSError(), 2), Retry)
    verdict = decide(policy, OSError(), 3)
    assert isinstance(verdict, DeadLetter)
    assert verdict.reason is DeadLetterReason.RETRIES_EXHAUSTED


def test_without_retries_the_first_failure_is_the_last() -> None:
    verdict = decide(RetryPolicy(max_retries=0), OSError(), 1)
    assert isinstance(verdict, DeadLetter)
    assert verdict.reason is DeadLetterReason.RETRIES_EXHAUSTED


@pytest.mark.parametrize(
    ("policy", "error", "retried"),
    [
        (RetryPolicy(retry_on=(OSError,)), ConnectionError(), True),
        (RetryPolicy(retry_on=(OSError,)), ValueError(), False),
        (RetryPolicy(give_up_on=(ValueError,)), UnicodeError(), False),
        (RetryPolicy(give_up_on=(ValueError,)), OSError(), True),
        (RetryPolicy(retry_on=(OSError,), give_up_on=(ConnectionError,)), ConnectionError(), False),
        (RetryPolicy(retry_on=(OSError,), give_up_on=(ConnectionError,)), TimeoutError(), True),
    ],
)
def test_the_lists_of_errors_decide_and_giving_up_wins(
    policy: RetryPolicy, error: BaseException, retried: bool
) -> None:
    decision = decide(policy, error, 1)
    if retried:
        assert isinstance(decision, Retry)
    else:
        assert isinstance(decision, DeadLetter)
        assert decision.reason is DeadLetterReason.PROCESSING_FAILED


def test_a_dead_letter_raised_by_the_task_is_the_decision() -> None:
    raised = DeadLetter(DeadLetterReason.MANUAL, "cheater")
    assert decide(RetryPolicy(), raised, 1) == raised


def test_lengths_of_time_may_be_timedeltas() -> None:
    policy = RetryPolicy(initial_delay=timedelta(milliseconds=50), max_delay=timedelta(seconds=1), jitter=False)
    assert decide(policy, OSError(), 1) == Retry(0.05)


def test_the_same_seed_gives_the_same_jitter() -> None:
    policy = RetryPolicy(initial_delay=10, jitter=True)
    assert decide(policy, OSError(), 1) == decide(policy, OSError(), 1)


@given(
    initial=st.floats(0, 1e6),
    cap=st.floats(0, 1e6),
    multiplier=st.floats(1, 1e3),
    attempt=st.integers(1, 10**6),
    exponential=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_delay_is_never_negative_nor_above_the_cap_nor_more_than_without_jitter(
    initial: float, cap: float, multiplier: float, attempt: int, exponential: bool, seed: int
) -> None:
    def policy(jitter: bool) -> RetryPolicy:
        return RetryPolicy(
            max_retries=10**6,
            initial_delay=initial,
            max_delay=cap,
            multiplier=multiplier,
            exponential=exponential,
            jitter=jitter,
        )

    full = policy(False).delay(attempt, Random(seed))
    assert 0 <= full <= cap
    assert 0 <= policy(True).delay(attempt, Random(seed)) <= full


@given(attempt=st.integers(1, 500))
def test_without_jitter_a_later_attempt_never_waits_less(attempt: int) -> None:
    policy = RetryPolicy(initial_delay=0.1, multiplier=1.5, max_delay=3600, jitter=False)
    assert policy.delay(attempt + 1, Random(SEED)) >= policy.delay(attempt, Random(SEED))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("max_retries", True),
        ("initial_delay", -0.1),
        ("initial_delay", float("nan")),
        ("initial_delay", "1"),
        ("max_delay", timedelta(seconds=-1)),
        ("max_delay", float("inf")),
        ("multiplier", 0.5),
        ("multiplier", float("nan")),
        ("retry_on", (OSError, "ValueError")),
        ("give_up_on", (42,)),
    ],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        RetryPolicy(**{field: value})


def test_one_error_class_may_stand_without_a_tuple() -> None:
    assert RetryPolicy(retry_on=OSError).retry_on == (OSError,)


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        RetryPolicy().max_retries = 9
