from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_tasks.scoring import allowed_declarations, best, is_over, round_points

PILES = st.integers(min_value=0, max_value=8)


@pytest.mark.parametrize(
    ("declared", "taken", "multiplier", "points"),
    [
        (0, 0, 1, 3),
        (0, 1, 1, -1),
        (0, 8, 1, -8),
        (1, 1, 1, 6),
        (8, 8, 1, 13),
        (3, 2, 1, -1),
        (3, 5, 1, -2),
        (8, 0, 1, -8),
        (0, 0, 2, 6),
        (0, 2, 3, -6),
        (4, 4, 2, 18),
        (4, 1, 3, -9),
    ],
)
def test_a_round_pays_for_the_exact_number_of_piles(declared: int, taken: int, multiplier: int, points: int) -> None:
    assert round_points(declared, taken, multiplier) == points


@given(PILES, PILES, st.integers(min_value=1, max_value=9))
def test_points_are_gained_only_by_an_exact_declaration(declared: int, taken: int, multiplier: int) -> None:
    assert (round_points(declared, taken, multiplier) > 0) is (declared == taken)


@pytest.mark.parametrize(
    ("earlier", "zeros_in_a_row", "forbidden"),
    [
        ([], 0, set()),
        ([4], 0, set()),
        ([4, 4], 0, set()),
        ([1, 2, 3], 0, {2}),
        ([0, 0, 0], 0, {8}),
        ([3, 3, 2], 0, {0}),
        ([3, 3, 3], 0, set()),
        ([], 1, set()),
        ([], 2, {0}),
        ([4], 3, {0}),
        ([1, 2, 3], 2, {0, 2}),
        ([3, 3, 2], 2, {0}),
    ],
)
def test_declarations_are_restricted_by_the_sum_and_by_zeros(
    earlier: list[int], zeros_in_a_row: int, forbidden: set[int]
) -> None:
    assert allowed_declarations(earlier, zeros_in_a_row) == tuple(sorted(set(range(9)) - forbidden))


@given(st.lists(PILES, max_size=3), st.integers(min_value=0, max_value=20))
def test_there_is_always_something_to_declare(earlier: list[int], zeros_in_a_row: int) -> None:
    assert len(allowed_declarations(earlier, zeros_in_a_row)) >= 7


@pytest.mark.parametrize(
    ("scores", "rounds", "over"),
    [
        ([49, 0, 0, 0], 19, False),
        ([50, 0, 0, 0], 1, True),
        ([0, 61, 0, 0], 5, True),
        ([-9, -9, -9, -9], 19, False),
        ([-9, -9, -9, -9], 20, True),
    ],
)
def test_a_game_is_over_at_fifty_points_or_after_twenty_rounds(scores: list[int], rounds: int, over: bool) -> None:
    assert is_over(scores, rounds) is over


@pytest.mark.parametrize(
    ("scores", "winners"),
    [
        ({"Ann": 50, "Ben": 49}, ("Ann",)),
        ({"Ann": 50, "Ben": 61}, ("Ben",)),
        ({"Ann": 52, "Ben": 3, "Cho": 52}, ("Ann", "Cho")),
        ({"Ann": -7, "Ben": -2}, ("Ben",)),
    ],
)
def test_the_highest_score_wins_and_may_be_shared(scores: dict[str, int], winners: tuple[str, ...]) -> None:
    assert best(scores) == winners
