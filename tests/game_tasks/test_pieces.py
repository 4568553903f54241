from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_tasks.pieces import DECK, Colour, Kind, Piece, deal, is_weak, ordered, without
from tests.game_tasks.games import pieces

POINTS = {
    Kind.GENERAL: (14, 13, 1),
    Kind.ADVISOR: (12, 11, 2),
    Kind.ELEPHANT: (10, 9, 2),
    Kind.CHARIOT: (8, 7, 2),
    Kind.HORSE: (6, 5, 2),
    Kind.CANNON: (4, 3, 2),
    Kind.SOLDIER: (2, 1, 5),
}


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_its_points_and_copies(kind: Kind) -> None:
    red, black, copies = POINTS[kind]

    assert Piece.of(kind, Colour.RED).points == red
    assert Piece.of(kind, Colour.BLACK).points == black
    assert DECK.count(Piece.of(kind, Colour.RED)) == DECK.count(Piece.of(kind, Colour.BLACK)) == copies


def test_deck_has_sixteen_pieces_of_each_colour() -> None:
    assert Counter(piece.colour for piece in DECK) == {Colour.RED: 16, Colour.BLACK: 16}


def test_piece_is_its_name_in_json() -> None:
    assert Piece("ADVISOR_BLACK") is Piece.of(Kind.ADVISOR, Colour.BLACK)
    assert Piece.ADVISOR_BLACK == "ADVISOR_BLACK"


@given(st.integers())
def test_a_deal_gives_the_whole_deck_away_in_equal_hands(seed: int) -> None:
    hands = deal(random.Random(seed))

    assert [len(hand) for hand in hands] == [8, 8, 8, 8]
    assert Counter(piece for hand in hands for piece in hand) == Counter(DECK)
    assert all(hand == ordered(hand) for hand in hands)


@given(st.integers())
def test_the_same_seed_deals_the_same_hands(seed: int) -> None:
    assert deal(random.Random(seed)) == deal(random.Random(seed))


def test_one_source_of_chance_deals_other_hands_the_next_time() -> None:
    rng = random.Random(1)

    assert deal(rng) != deal(rng)


@pytest.mark.parametrize(
    ("hand", "weak"),
    [
        ("Eb Cr Cr Cb Hr Hb Kr Sb", True),
        ("Sr Sr Sr Sr Sr Sb Sb Sb", True),
        ("Er Cr Cr Cb Hr Hb Kr Sb", False),
        ("Sr Sr Sr Sr Sr Sb Sb Gb", False),
    ],
)
def test_a_hand_is_weak_when_its_best_piece_is_worth_nine_or_less(hand: str, weak: bool) -> None:
    assert is_weak(pieces(hand)) is weak


def test_taking_pieces_out_removes_one_copy_each() -> None:
    assert without(pieces("Ar Ar Sb"), pieces("Ar")) == pieces("Ar Sb")


def test_taking_out_more_copies_than_there_are_names_the_piece() -> None:
    with pytest.raises(ValueError, match="ADVISOR_RED is not in the hand"):
        without(pieces("Ar Sb"), pieces("Ar Ar"))
