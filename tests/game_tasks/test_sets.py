from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, combinations_with_replacement, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_tasks.pieces import DECK, Hand, Kind, Piece, deal, ordered
from game_tasks.sets import VALID_SETS, SetType, beats, set_type, strength, turn_winner, valid_sets
from tests.game_tasks.games import pieces

VALID = [
    ("Gr", SetType.SINGLE, 14),
    ("Sb", SetType.SINGLE, 1),
    ("Ar Ar", SetType.PAIR, 24),
    ("Sb Sb", SetType.PAIR, 2),
    ("Kb Kb", SetType.PAIR, 6),
    ("Sr Sr Sr", SetType.THREE_OF_A_KIND, 6),
    ("Sb Sb Sb", SetType.THREE_OF_A_KIND, 3),
    ("Gr Ar Er", SetType.STRAIGHT, 36),
    ("Gb Ab Eb", SetType.STRAIGHT, 33),
    ("Cr Hr Kr", SetType.STRAIGHT, 18),
    ("Kb Cb Hb", SetType.STRAIGHT, 15),
    ("Sr Sr Sr Sr", SetType.FOUR_OF_A_KIND, 8),
    ("Sb Sb Sb Sb", SetType.FOUR_OF_A_KIND, 4),
    ("Gr Ar Ar Er", SetType.EXTENDED_STRAIGHT, 36),
    ("Gb Ab Eb Eb", SetType.EXTENDED_STRAIGHT, 33),
    ("Cr Cr Hr Kr", SetType.EXTENDED_STRAIGHT, 18),
    ("Cr Hr Hr Kr", SetType.EXTENDED_STRAIGHT, 18),
    ("Cb Hb Kb Kb", SetType.EXTENDED_STRAIGHT, 15),
    ("Sr Sr Sr Sr Sr", SetType.FIVE_OF_A_KIND, 10),
    ("Sb Sb Sb Sb Sb", SetType.FIVE_OF_A_KIND, 5),
    ("Gr Ar Ar Er Er", SetType.EXTENDED_STRAIGHT_5, 36),
    ("Cb Cb Hb Hb Kb", SetType.EXTENDED_STRAIGHT_5, 15),
    ("Cr Hr Hr Kr Kr", SetType.EXTENDED_STRAIGHT_5, 18),
    ("Cr Cr Hr Hr Kr Kr", SetType.DOUBLE_STRAIGHT, 36),
    ("Cb Cb Hb Hb Kb Kb", SetType.DOUBLE_STRAIGHT, 30),
]

NEAR_MISSES = [
    ("", "nothing at all"),
    ("Gr Gb", "a pair of two colours"),
    ("Sr Sb", "soldiers of two colours"),
    ("Ar Er", "two kinds"),
    ("Sr Sr Sb", "three soldiers of two colours"),
    ("Cr Cr Cb", "three of a kind that is not the soldier, and of two colours"),
    ("Gr Ar Eb", "a straight of two colours"),
    ("Ar Er Cr", "neighbours in points from two groups"),
    ("Hr Kr Sr", "a straight down to the soldier"),
    ("Cr Cr Hr", "two kinds of a straight, one doubled"),
    ("Gr Ar Ar", "two kinds of the upper straight, one doubled"),
    ("Sr Sr Sr Sb", "four soldiers of two colours"),
    ("Cr Cr Hr Hr", "two pairs of a group"),
    ("Cr Hr Kr Sr", "a straight and a soldier"),
    ("Cr Hr Kr Cb", "an extended straight whose double has the other colour"),
    ("Gr Ar Er Gb", "an extended straight doubled by the other GENERAL"),
    ("Sr Sr Sr Sr Sb", "five soldiers of two colours"),
    ("Cr Cr Hr Hr Kb", "five of a group of two colours"),
    ("Cr Cr Hr Hr Sr", "two pairs and a soldier"),
    ("Gr Ar Ar Er Gb", "the upper five with both GENERALs"),
    ("Gr Ar Ar Er Er Gb", "an upper double straight"),
    ("Cr Cr Hr Hr Kr Kb", "a double straight of two colours"),
    ("Cr Hr Kr Cb Hb Kb", "two straights of different colours"),
    ("Gr Ar Er Cr Hr Kr", "two straights of different groups"),
    ("Ar Ar Er Er Cr Cr", "three pairs"),
    ("Sr Sr Sr Sr Sr Sb", "six soldiers"),
    ("Cr Cr Hr Hr Kr Kr Sr", "seven pieces"),
]


def classified_by_definition(hand: Hand) -> SetType | None:
    """Say the definitions again, by counting, as an oracle for the list of sets."""
    if not hand or len({piece.colour for piece in hand}) > 1:
        return None
    kinds = Counter(piece.kind for piece in hand)
    copies = sorted(kinds.values())
    if len(kinds) == 1:
        if len(hand) <= 2:
            return {1: SetType.SINGLE, 2: SetType.PAIR}[len(hand)]
        soldiers = {3: SetType.THREE_OF_A_KIND, 4: SetType.FOUR_OF_A_KIND, 5: SetType.FIVE_OF_A_KIND}
        return soldiers.get(len(hand)) if Kind.SOLDIER in kinds else None
    upper = {Kind.GENERAL, Kind.ADVISOR, Kind.ELEPHANT}
    lower = {Kind.CHARIOT, Kind.HORSE, Kind.CANNON}
    if set(kinds) not in (upper, lower):
        return None
    by_copies = {
        (1, 1, 1): SetType.STRAIGHT,
        (1, 1, 2): SetType.EXTENDED_STRAIGHT,
        (1, 2, 2): SetType.EXTENDED_STRAIGHT_5,
        (2, 2, 2): SetType.DOUBLE_STRAIGHT,
    }
    return by_copies.get(tuple(copies))


def sub_multisets_of_the_deck(size: int) -> Iterator[Hand]:
    for chosen in combinations_with_replacement(Piece, size):
        if all(count <= piece.copies for piece, count in Counter(chosen).items()):
            yield chosen


@pytest.mark.parametrize(("short", "expected", "points"), VALID)
def test_a_valid_set_has_its_type_and_points_in_any_order(short: str, expected: SetType, points: int) -> None:
    hand = pieces(short)

    assert set_type(hand) is set_type(hand[::-1]) is expected
    assert strength(hand) == strength(hand[::-1]) == points


@pytest.mark.parametrize(("short", "why"), NEAR_MISSES)
def test_a_near_miss_is_no_set(short: str, why: str) -> None:
    assert set_type(pieces(short)) is None, why
    with pytest.raises(ValueError, match="is not a valid set"):
        strength(pieces(short))


def test_every_type_is_in_the_table_above() -> None:
    assert {expected for _, expected, _ in VALID} == set(SetType)


@pytest.mark.parametrize("size", range(1, 7))
def test_the_list_of_sets_is_what_the_definitions_say(size: int) -> None:
    by_definition = {hand: classified_by_definition(hand) for hand in sub_multisets_of_the_deck(size)}

    expected = {hand: kind for hand, kind in by_definition.items() if kind is not None}

    assert {hand: kind for hand, kind in VALID_SETS.items() if len(hand) == size} == expected


def test_there_are_fifty_six_sets_and_none_is_longer_than_six() -> None:
    assert len(VALID_SETS) == 56
    assert max(map(len, VALID_SETS)) == 6


@pytest.mark.parametrize("kind_of_set", SetType)
def test_comparing_is_a_strict_weak_order_within_a_type(kind_of_set: SetType) -> None:
    sets = [hand for hand, kind in VALID_SETS.items() if kind is kind_of_set]

    def equal(one: Hand, other: Hand) -> bool:
        return not beats(one, other) and not beats(other, one)

    assert not any(beats(one, one) for one in sets)
    assert not any(beats(one, other) and beats(other, one) for one, other in product(sets, repeat=2))
    for one, other, third in product(sets, repeat=3):
        if beats(one, other) and beats(other, third):
            assert beats(one, third)
        if equal(one, other) and equal(other, third):
            assert equal(one, third)


def test_sets_of_different_types_never_beat_each_other() -> None:
    mixed = [(a, b) for a, b in product(VALID_SETS, repeat=2) if VALID_SETS[a] is not VALID_SETS[b]]

    assert len(mixed) > 1000
    assert not any(beats(one, other) for one, other in mixed)


@pytest.mark.parametrize(
    ("challenger", "holder", "wins"),
    [
        ("Gr", "Gb", True),
        ("Ar", "Ar", False),
        ("Cr Hr Kr", "Cb Hb Kb", True),
        ("Gb Ab Eb", "Cr Hr Kr", True),
        ("Cr Hr Kr", "Cr Hr Kr", False),
        ("Sr Sr Sr", "Cb Hb Kb", False),
        ("Cr Hr Kr Kr", "Cb Cb Hb Kb", True),
        ("Cr Cr Hr Kr", "Cr Hr Hr Kr", False),
        ("Gb Ab Eb Eb", "Cr Cr Hr Kr", True),
        ("Sr Sr Sr Sr", "Cb Hb Kb Kb", False),
        ("Ar Eb", "Sb Sb", False),
    ],
)
def test_a_challenger_wins_only_with_more_points_of_the_same_type(challenger: str, holder: str, wins: bool) -> None:
    assert beats(pieces(challenger), pieces(holder)) is wins


@pytest.mark.parametrize(
    ("plays", "winner"),
    [
        (["Cr", "Hr", "Kr", "Sr"], 0),
        (["Cr", "Gr", "Gb", "Sr"], 1),
        (["Cr", "Ar", "Sb", "Ar"], 1),
        (["Sb", "Sb", "Sb", "Sb"], 0),
        (["Sb Sb", "Gr Gb", "Ar Er", "Gr Ab"], 0),
        (["Sb Sb", "Gr Gb", "Sr Sr", "Kb Kb"], 3),
        (["Sb Sb Sb", "Gr Ar Er", "Cr Hr Kr", "Sr Sr Sr"], 3),
    ],
)
def test_the_best_set_of_the_leaders_type_wins_the_turn(plays: list[str], winner: int) -> None:
    assert turn_winner([pieces(play) for play in plays]) == winner


@given(st.integers(), st.none() | st.integers(min_value=1, max_value=6))
def test_a_hands_sets_are_exactly_those_found_by_trying_all_its_pieces(seed: int, size: int | None) -> None:
    hand = deal(random.Random(seed))[0]
    sizes = range(1, 7) if size is None else [size]

    tried = {ordered(chosen) for length in sizes for chosen in combinations(hand, length)}

    listed = valid_sets(hand, size)
    assert len(listed) == len(set(listed))
    assert set(listed) == {chosen for chosen in tried if classified_by_definition(chosen) is not None}


def test_the_whole_deck_holds_every_set() -> None:
    assert valid_sets(DECK) == tuple(VALID_SETS)
