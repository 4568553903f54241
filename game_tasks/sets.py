"""Which pieces may be played together, and which of two such sets is better.

There are only 56 different valid sets in the deck, so they are listed once from their definitions and looked up. All
pieces of a set have one colour. A group is GENERAL-ADVISOR-ELEPHANT or CHARIOT-HORSE-CANNON; as there is one GENERAL of
each colour, it can never be the doubled piece, and only CHARIOT-HORSE-CANNON has a double straight.

Only sets of one type are compared. A player who follows may play any pieces of the right number; what is not a set of
the leader's type cannot win.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import combinations

from game_tasks.pieces import Colour, Hand, Kind, Piece, ordered

__all__ = ["MAX_SET_SIZE", "VALID_SETS", "SetType", "beats", "set_type", "strength", "turn_winner", "valid_sets"]

MAX_SET_SIZE = 6


class SetType(StrEnum):
    """The nine types; a set is compared with sets of its own type only."""

    SINGLE = "SINGLE"
    """Any one piece."""
    PAIR = "PAIR"
    """Two of the same kind and colour."""
    THREE_OF_A_KIND = "THREE_OF_A_KIND"
    """Three soldiers of one colour."""
    STRAIGHT = "STRAIGHT"
    """The three kinds of one group, one colour."""
    FOUR_OF_A_KIND = "FOUR_OF_A_KIND"
    """Four soldiers of one colour."""
    EXTENDED_STRAIGHT = "EXTENDED_STRAIGHT"
    """A straight with one of its pieces doubled."""
    FIVE_OF_A_KIND = "FIVE_OF_A_KIND"
    """All soldiers of one colour."""
    EXTENDED_STRAIGHT_5 = "EXTENDED_STRAIGHT_5"
    """A straight with two of its pieces doubled."""
    DOUBLE_STRAIGHT = "DOUBLE_STRAIGHT"
    """Both copies of CHARIOT, HORSE and CANNON of one colour."""


_GROUPS = ((Kind.GENERAL, Kind.ADVISOR, Kind.ELEPHANT), (Kind.CHARIOT, Kind.HORSE, Kind.CANNON))
_STRAIGHT_WITH_DOUBLED = (
    SetType.STRAIGHT,
    SetType.EXTENDED_STRAIGHT,
    SetType.EXTENDED_STRAIGHT_5,
    SetType.DOUBLE_STRAIGHT,
)
_SOLDIERS = {3: SetType.THREE_OF_A_KIND, 4: SetType.FOUR_OF_A_KIND, 5: SetType.FIVE_OF_A_KIND}
_COMPARED_BY_DISTINCT = frozenset({SetType.EXTENDED_STRAIGHT, SetType.EXTENDED_STRAIGHT_5})


def _list_sets() -> Iterator[tuple[Hand, SetType]]:
    for piece in Piece:
        yield (piece,), SetType.SINGLE
        if piece.copies >= 2:
            yield (piece, piece), SetType.PAIR
        if piece.kind is Kind.SOLDIER:
            for count, kind_of_set in _SOLDIERS.items():
                yield (piece,) * count, kind_of_set
    for colour in Colour:
        for group in _GROUPS:
            straight = tuple(Piece.of(kind, colour) for kind in group)
            can_double = [piece for piece in straight if piece.copies == 2]
            for doubled, straight_type in enumerate(_STRAIGHT_WITH_DOUBLED):
                for extra in combinations(can_double, doubled):
                    yield ordered(straight + extra), straight_type


VALID_SETS: dict[Hand, SetType] = dict(_list_sets())
"""Every valid set, its pieces in the order of ``ordered``, and its type."""

_NEEDS = tuple((pieces, tuple(Counter(pieces).items())) for pieces in VALID_SETS)


def set_type(pieces: Sequence[Piece]) -> SetType | None:
    """Name the type of these pieces, in any order; None when they are not a valid set."""
    return VALID_SETS.get(ordered(pieces))


def strength(pieces: Sequence[Piece]) -> int:
    """Add up the points by which a valid set is compared with others of its type.

    Extended straights count each of their three kinds once: red C-C-H-K counts 8 + 6 + 4 = 18 (K: cannon).
    Raises ValueError when the pieces are not a valid set.
    """
    kind_of_set = set_type(pieces)
    if kind_of_set is None:
        raise ValueError(f"{', '.join(pieces)} is not a valid set")
    counted = set(pieces) if kind_of_set in _COMPARED_BY_DISTINCT else pieces
    return sum(piece.points for piece in counted)


def beats(challenger: Sequence[Piece], holder: Sequence[Piece]) -> bool:
    """Say whether a later play takes the turn from the valid set that holds it: same type and more points."""
    return set_type(challenger) is set_type(holder) and strength(challenger) > strength(holder)


def turn_winner(plays: Sequence[Hand]) -> int:
    """Return the index of the winning play, ``plays[0]`` being the leader's valid set; a tie stays with the earlier."""
    best = 0
    for index in range(1, len(plays)):
        if beats(plays[index], plays[best]):
            best = index
    return best


@lru_cache(maxsize=16_384)  # a game asks for the same hands, and what is left of them, again and again
def valid_sets(hand: Hand, size: int | None = None) -> tuple[Hand, ...]:
    """List every valid set that the hand holds, each once; only those of ``size`` pieces when it is given."""
    count = Counter(hand)
    return tuple(
        pieces
        for pieces, needs in _NEEDS
        if (size is None or len(pieces) == size) and all(count[piece] >= copies for piece, copies in needs)
    )
