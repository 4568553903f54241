"""The pure parts of a replay: its pace, the rule that stops it, and how ages are written on the command line."""

from __future__ import annotations

from itertools import pairwise

import pytest

from liap_tasks.commands.ages import parse_age
from liap_tasks.dead_letter_store.pace import CATCH_UP, Pace
from liap_tasks.dead_letter_store.stop_rule import StopRule


class Watch:
    """A clock that sleeping and working advance."""

    def __init__(self) -> None:
        self.now = 100.0

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def pace(self, rate: float) -> Pace:
        return Pace(rate, clock=lambda: self.now, sleep=self.pass_time)


def test_steps_are_spread_evenly() -> None:
    watch = Watch()
    pace = watch.pace(10)
    taken = []
    for _ in range(5):
        pace.wait()
        taken.append(watch.now)
    apart = [after - before for before, after in pairwise(taken)]
    # The first may come with what a catch-up allows.
    assert apart == pytest.approx([max(0.0, 0.1 - CATCH_UP), 0.1, 0.1, 0.1])


def test_the_time_that_the_steps_take_is_part_of_the_pace() -> None:
    watch = Watch()
    pace = watch.pace(10)
    for _ in range(101):
        pace.wait()
        watch.pass_time(0.04)
    assert watch.now == pytest.approx(100 + 10, abs=0.2)


def test_a_pause_is_not_followed_by_a_burst() -> None:
    watch = Watch()
    pace = watch.pace(100)
    pace.wait()
    watch.pass_time(60)
    began = watch.now
    for _ in range(100):
        pace.wait()
    assert watch.now - began == pytest.approx(1.0 - CATCH_UP, abs=0.02)


def test_no_rate_means_no_waiting() -> None:
    watch = Watch()
    pace = watch.pace(0)
    for _ in range(1000):
        pace.wait()
    assert watch.now == 100.0
    assert pace.steps_in(1.0, 500) == 500


@pytest.mark.parametrize(("rate", "steps"), [(1, 1), (0.1, 1), (100, 50), (100_000, 500)])
def test_a_batch_is_what_the_pace_lets_pass_in_its_time(rate: float, steps: int) -> None:
    assert Pace(rate).steps_in(0.5, 500) == steps


@pytest.mark.parametrize("rate", [-1, float("inf"), float("nan")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be"):
        Pace(rate)


@pytest.mark.parametrize(
    ("replayed", "came_back", "broken_by"),
    [
        (19, {"OSError": 19}, None),
        (20, {"OSError": 10}, None),
        (20, {"OSError": 11}, "OSError"),
        (40, {"OSError": 15, "KeyError": 15}, None),
        (40, {"KeyError": 3, "OSError": 21}, "OSError"),
        (1000, {}, None),
    ],
)
def test_the_rule_looks_at_one_error_and_at_a_sample(
    replayed: int, came_back: dict[str, int], broken_by: str | None
) -> None:
    assert StopRule(percent=50, sample=20).broken_by(replayed, came_back) == broken_by


def test_a_rule_of_a_hundred_percent_never_stops() -> None:
    assert StopRule(percent=100).broken_by(50, {"OSError": 50}) is None


@pytest.mark.parametrize("wrong", [{"percent": -1}, {"percent": 101}, {"sample": 0}])
def test_an_impossible_rule_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        StopRule(**wrong)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("1d12h", 129_600), ("2w", 1_209_600), (" 1H ", 3600)],
)
def test_an_age_is_read(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2x", "-1h", "1h 30m later", "1e3s"])
def test_what_is_no_age_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 90s"):
        parse_age(text)
