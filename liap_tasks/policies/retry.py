"""Whether a failed attempt is tried again, and when: a decision, not an effect.

``RetryPolicy.decide`` is a pure function of the error, the attempt and a random source; :class:`liap_tasks.LiapTask`
carries the decision out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from liap_tasks.policies.dead_letter import DeadLetter, DeadLetterReason
from liap_tasks.policies.durations import Duration, in_seconds

__all__ = ["Decision", "Retry", "RetryPolicy"]

ErrorTypes = tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again in ``delay`` seconds."""

    delay: float


Decision = Retry | DeadLetter


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to try again.

    max_retries: retries after the first attempt, >= 0. initial_delay: seconds (or a timedelta) before the first retry,
    below a second too. multiplier: growth per retry, >= 1. max_delay: cap of every delay. jitter: choose each delay at
    random between 0 and the computed one ("full jitter"), so that tasks that failed together do not come back together.
    exponential: False keeps every delay at initial_delay.
    retry_on: only these errors are retried; Exception stands for every error, for SystemExit and its like too.
    give_up_on: these never are, even if they are in retry_on.

    Worked example: initial_delay 1, multiplier 2, jitter off: attempts 1, 2, 3 -> 1, 2, 4 s.
    Raises ValueError naming the field for a value out of bounds.
    """

    max_retries: int = 3
    initial_delay: Duration = 1.0
    max_delay: Duration = 60.0
    multiplier: float = 2.0
    jitter: bool = True
    exponential: bool = True
    retry_on: ErrorTypes = (Exception,)
    give_up_on: ErrorTypes = ()

    def __post_init__(self) -> None:
        if not isinstance(self.max_retries, int) or isinstance(self.max_retries, bool) or self.max_retries < 0:
            raise ValueError(f"max_retries must be a whole number of at least 0, not {self.max_retries!r}")
        if not isinstance(self.multiplier, int | float) or not self.multiplier >= 1:
            raise ValueError(f"multiplier must be a number of at least 1, not {self.multiplier!r}")
        object.__setattr__(self, "initial_delay", in_seconds("initial_delay", self.initial_delay))
        object.__setattr__(self, "max_delay", in_seconds("max_delay", self.max_delay))
        object.__setattr__(self, "retry_on", _error_types("retry_on", self.retry_on))
        object.__setattr__(self, "give_up_on", _error_types("give_up_on", self.give_up_on))

    def decide(self, error: BaseException, *, attempt: int, rng: Random) -> Decision:
        """Return what to do after ``attempt`` (1 is the first) has failed with ``error``."""
        if isinstance(error, DeadLetter):
            return error
        if isinstance(error, self.give_up_on) or not (isinstance(error, self.retry_on) or Exception in self.retry_on):
            return DeadLetter(DeadLetterReason.PROCESSING_FAILED, "an error of this kind is not retried")
        if attempt > self.max_retries:
            return DeadLetter(DeadLetterReason.RETRIES_EXHAUSTED, f"failed on attempt {attempt} of {attempt}")
        return Retry(self.delay(attempt, rng))

    def delay(self, attempt: int, rng: Random) -> float:
        """Return the seconds to wait after ``attempt`` has failed."""
        first = in_seconds("initial_delay", self.initial_delay)
        cap = in_seconds("max_delay", self.max_delay)
        if self.exponential:
            # A large exponent would overflow; the cap is reached long before.
            growth = min(float(attempt - 1), 1000.0)
            try:
                computed = first * self.multiplier**growth
            except OverflowError:
                computed = cap
        else:
            computed = first
        computed = min(computed, cap)
        return rng.uniform(0.0, computed) if self.jitter else computed


def _error_types(name: str, value: Iterable[type[BaseException]] | type[BaseException]) -> ErrorTypes:
    types = (value,) if isinstance(value, type) else tuple(value)
    for one in types:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise ValueError(f"{name} takes exception classes, not {one!r}")
    return types
