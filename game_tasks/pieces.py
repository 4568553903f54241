"""The pieces of Liap Tui, the deal, and what makes a hand weak.

32 pieces, 16 of each colour. The points 1 to 14 name a piece completely: no two different pieces are worth the same.
Copies of one piece cannot be told apart, so a hand is a multiset, written as a tuple sorted from the most points down.

Chance is an argument: the same ``random.Random`` state deals the same hands.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from enum import StrEnum

__all__ = ["DECK", "HAND_SIZE", "SEATS", "WEAK_HAND_POINTS", "Colour", "Hand", "Kind", "Piece", "deal", "is_weak"]
__all__ += ["ordered", "without"]

SEATS = 4
HAND_SIZE = 8
WEAK_HAND_POINTS = 9
"""A hand whose best piece is worth at most this may ask for a redeal."""


class Colour(StrEnum):
    """The two sides of the deck; of two equal kinds the red one is worth one point more."""

    RED = "RED"
    BLACK = "BLACK"


class Kind(StrEnum):
    """What a piece is, whatever its colour."""

    GENERAL = "GENERAL"
    ADVISOR = "ADVISOR"
    ELEPHANT = "ELEPHANT"
    CHARIOT = "CHARIOT"
    HORSE = "HORSE"
    CANNON = "CANNON"
    SOLDIER = "SOLDIER"


class Piece(StrEnum):
    """One piece; in JSON it is its name.

    points: 1 to 14. copies: how many of it the deck holds (1, 2 or 5).
    """

    GENERAL_RED = ("GENERAL_RED", 14, 1)
    GENERAL_BLACK = ("GENERAL_BLACK", 13, 1)
    ADVISOR_RED = ("ADVISOR_RED", 12, 2)
    ADVISOR_BLACK = ("ADVISOR_BLACK", 11, 2)
    ELEPHANT_RED = ("ELEPHANT_RED", 10, 2)
    ELEPHANT_BLACK = ("ELEPHANT_BLACK", 9, 2)
    CHARIOT_RED = ("CHARIOT_RED", 8, 2)
    CHARIOT_BLACK = ("CHARIOT_BLACK", 7, 2)
    HORSE_RED = ("HORSE_RED", 6, 2)
    HORSE_BLACK = ("HORSE_BLACK", 5, 2)
    CANNON_RED = ("CANNON_RED", 4, 2)
    CANNON_BLACK = ("CANNON_BLACK", 3, 2)
    SOLDIER_RED = ("SOLDIER_RED", 2, 5)
    SOLDIER_BLACK = ("SOLDIER_BLACK", 1, 5)

    points: int
    copies: int

    def __new__(cls, name: str, points: int, copies: int) -> Piece:
        """Build a member from its row above."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.points = points
        member.copies = copies
        return member

    @property
    def kind(self) -> Kind:
        """What it is: the first word of its name."""
        return Kind(self.value.split("_")[0])

    @property
    def colour(self) -> Colour:
        """Its side: the second word of its name."""
        return Colour(self.value.split("_")[1])

    @classmethod
    def of(cls, kind: Kind, colour: Colour) -> Piece:
        """Return the piece of this kind and colour."""
        return cls[f"{kind}_{colour}"]


Hand = tuple[Piece, ...]

DECK: Hand = tuple(piece for piece in Piece for _ in range(piece.copies))
"""All 32 pieces, the most points first."""


def ordered(pieces: Iterable[Piece]) -> Hand:
    """Sort pieces from the most points down: the one spelling of a multiset of pieces."""
    return tuple(sorted(pieces, key=lambda piece: -piece.points))


def without(hand: Hand, pieces: Iterable[Piece]) -> Hand:
    """Take pieces out of a hand, one copy each; raises ValueError naming the first that is not in it."""
    left = list(hand)
    for piece in pieces:
        if piece not in left:
            raise ValueError(f"{piece} is not in the hand {', '.join(hand)}")
        left.remove(piece)
    return tuple(left)


def deal(rng: random.Random) -> tuple[Hand, ...]:
    """Shuffle the whole deck and deal 4 hands of 8 pieces, by seat; advances ``rng``."""
    deck = list(DECK)
    rng.shuffle(deck)
    return tuple(ordered(deck[seat * HAND_SIZE : (seat + 1) * HAND_SIZE]) for seat in range(SEATS))


def is_weak(hand: Hand) -> bool:
    """Say whether no piece of the hand is worth more than 9 points, so that its holder may ask for a redeal."""
    return all(piece.points <= WEAK_HAND_POINTS for piece in hand)
