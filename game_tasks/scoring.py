"""How many piles a player may declare, what a round pays for it, and when the game is over.

A round has 8 piles. Its points are paid for foreseeing one's piles, not for taking many. The multiplier of a redealt
round applies to every player's points, lost ones too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["MAX_ROUNDS", "PILES", "TARGET_SCORE", "ZEROS_IN_A_ROW", "allowed_declarations", "best", "is_over"]
__all__ += ["round_points"]

PILES = 8
"""The piles of one round: one for each piece of a hand."""
TARGET_SCORE = 50
MAX_ROUNDS = 20
ZEROS_IN_A_ROW = 2
"""After this many rounds of declaring 0 in a row, a player must declare at least 1."""

_LAST_POSITION = 3


def allowed_declarations(earlier: Sequence[int], zeros_in_a_row: int) -> tuple[int, ...]:
    """List what the next player may declare, ascending, never empty.

    earlier: what the players before declared in this round, 0 to 3 numbers; with 3 it is the last player's turn, who
    may not make the sum 8. zeros_in_a_row: rounds up to now in which this player declared 0 without a break.
    """
    forbidden = set()
    if len(earlier) == _LAST_POSITION:
        forbidden.add(PILES - sum(earlier))
    if zeros_in_a_row >= ZEROS_IN_A_ROW:
        forbidden.add(0)
    return tuple(piles for piles in range(PILES + 1) if piles not in forbidden)


def round_points(declared: int, taken: int, multiplier: int = 1) -> int:
    """Pay one round: declared 0, took 0: 3; declared x, took x: x + 5; otherwise minus the difference.

    declared, taken: 0 to 8 piles. multiplier: 1, and one more for each redeal of the round.
    """
    if declared != taken:
        points = -abs(declared - taken)
    elif declared == 0:
        points = 3
    else:
        points = declared + 5
    return points * multiplier


def is_over(scores: Sequence[int], rounds_played: int) -> bool:
    """Say whether somebody has reached 50 points or the 20th round has been played."""
    return rounds_played >= MAX_ROUNDS or max(scores) >= TARGET_SCORE


def best(scores: Mapping[str, int]) -> tuple[str, ...]:
    """Name the players with the highest score, in the given order; several when they are equal."""
    top = max(scores.values())
    return tuple(player for player, score in scores.items() if score == top)
