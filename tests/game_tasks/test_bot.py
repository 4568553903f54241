from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from game_tasks import bot
from game_tasks.estimate import Estimate
from game_tasks.moves import DecisionKind, Declaration, Play
from game_tasks.pieces import ordered
from game_tasks.sets import set_type
from game_tasks.table import Decide, play_game
from game_tasks.views import PlayerView, SeatView, TablePlay, view_of
from tests.game_tasks.games import anything_legal, first_state, pieces, walk

SEEDS = st.integers(min_value=0, max_value=10**9)
few = settings(max_examples=4, deadline=None)


def bot_with(seed: int) -> Decide:
    return lambda view, kind: bot.decide(view, kind, seed)


def seen(
    hand: str, *, declared: int, taken: int = 0, table: tuple[str, ...] = (), played: str = "", leads: bool = False
) -> PlayerView:
    """Show a turn to Dee, who leads it or comes after the players of ``table``."""
    own = pieces(hand)
    required = len(pieces(table[0])) if table else None
    order = ("Ann", "Ben", "Cho")
    seats = [
        SeatView(player_id=name, score=0, declared=2, taken=0, pieces_left=len(own) - (required or 0)) for name in order
    ]
    seats.append(SeatView(player_id="Dee", score=0, declared=declared, taken=taken, pieces_left=len(own)))
    earlier = order[len(order) - len(table) :]
    return PlayerView(
        player_id="Dee",
        decision=DecisionKind.PLAY,
        round_number=1,
        turn_number=1,
        multiplier=1,
        starter="Ann",
        leader="Dee" if leads else earlier[0],
        position=len(table),
        hand=ordered(own),
        seats=tuple(seats),
        table=tuple(TablePlay(player_id=n, pieces=pieces(p)) for n, p in zip(earlier, table, strict=True)),
        played=pieces(played),
        required_pieces=required,
    )


@few
@given(SEEDS)
def test_the_bot_never_makes_an_illegal_move(seed: int) -> None:
    *_, (_, _, last) = walk(seed, bot_with(seed))

    assert last.state.pending is None


@few
@given(SEEDS)
def test_the_bot_leads_only_valid_sets_it_holds(seed: int) -> None:
    for before, move, _ in walk(seed, bot_with(seed)):
        if isinstance(move, Play) and not before.plays:
            hand = before.players[before.to_move].hand
            assert set_type(move.pieces) is not None
            assert all(hand.count(piece) >= move.pieces.count(piece) for piece in move.pieces)


@few
@given(SEEDS, st.integers())
def test_the_bot_answers_legally_whatever_the_others_play(seed: int, bot_seed: int) -> None:
    others = anything_legal(random.Random(seed))

    def decide(view: PlayerView, kind: DecisionKind) -> object:
        return bot.decide(view, kind, bot_seed) if view.player_id == "Ben" else others(view, kind)

    *_, (_, _, last) = walk(seed, decide)  # type: ignore[arg-type]

    assert last.state.pending is None


@few
@given(SEEDS)
def test_the_same_view_and_seed_give_the_same_answer_after_a_journey_through_json(seed: int) -> None:
    for before, move, _ in list(walk(seed, bot_with(seed)))[1::5]:
        assert before.pending is not None
        view = view_of(before, before.id_of(before.to_move))
        again = PlayerView.model_validate_json(view.model_dump_json())
        assert bot.decide(again, before.pending, seed) == move


def test_another_process_with_another_hash_seed_plays_the_same_game() -> None:
    script = (
        "from game_tasks import bot, table;"
        "print(table.play_game(11, lambda v, k: bot.decide(v, k, 11), game_id='g').model_dump_json())"
    )

    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2")
    }

    assert len(outputs) == 1
    assert '"winners"' in outputs.pop()


def exact_declarations(decide: Decide, seed: int) -> tuple[int, int]:
    rounds = play_game(seed, decide).rounds
    exact = sum(
        declared == taken for result in rounds for declared, taken in zip(result.declared, result.taken, strict=True)
    )
    return exact, 4 * len(rounds)


def test_the_bot_meets_its_declaration_far_more_often_than_chance() -> None:
    by_bot = [exact_declarations(bot_with(seed), seed) for seed in range(6)]
    by_chance = [exact_declarations(anything_legal(random.Random(seed)), seed) for seed in range(6)]

    bot_share = sum(exact for exact, _ in by_bot) / sum(asked for _, asked in by_bot)
    chance_share = sum(exact for exact, _ in by_chance) / sum(asked for _, asked in by_chance)

    assert bot_share > 0.4
    assert bot_share > 2 * chance_share


def test_a_table_of_bots_reaches_fifty_points_before_the_twentieth_round() -> None:
    rounds = [len(play_game(seed, bot_with(seed)).rounds) for seed in range(6)]

    assert sum(rounds) / len(rounds) < 18


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        # piles are missing: the surest set of the right length goes first
        (seen("Gr Sb Sb Sr", declared=1, leads=True), "Gr"),
        (seen("Gr Ar Er Sb", declared=3, leads=True), "Gr Ar Er"),
        # the declaration is met: lead what somebody will beat
        (seen("Gr Ar Sb Er", declared=0, leads=True), "Sb"),
        # last to play and one pile is missing: win as cheaply as possible
        (seen("Gr Ar Cb Sb", declared=1, table=("Kr", "Hr", "Sr")), "Cb"),
        # last to play and nothing is missing: get rid of the best piece that does not win
        (seen("Gr Ar Cb Sb", declared=0, table=("Kr", "Ar", "Sr")), "Ar"),
        # nothing is missing, but every piece wins: with the cheapest
        (seen("Gr Ar", declared=0, table=("Kr", "Hr", "Sr")), "Ar"),
        # a pile is missing but the turn is worth three: let it go
        (seen("Gr Ar Er Sb Sb Hb", declared=1, table=("Kr Cr Hr", "Sr Sr Kb", "Sr Hb Kb")), "Hb Sb Sb"),
        # a pile is missing and the turn cannot be won: keep the good pieces
        (seen("Gb Ar Kb", declared=1, table=("Gr", "Hr", "Sr")), "Kb"),
    ],
)
def test_the_bot_plays_for_its_declaration(view: PlayerView, expected: str) -> None:
    assert bot.choose_play(view).pieces == pieces(expected)


def test_the_bot_declares_more_with_a_better_hand() -> None:
    state = first_state(7, lambda state: state.pending is DecisionKind.DECLARE)
    view = view_of(state, state.id_of(state.to_move))
    poor = view.model_copy(update={"hand": pieces("Cb Hr Hb Kr Kb Sr Sb Sb")})
    rich = view.model_copy(update={"hand": pieces("Gr Gb Ar Ar Er Cr Hr Kr")})

    assert bot.choose_declaration(poor).piles <= 1
    assert bot.choose_declaration(rich).piles >= 4


def test_the_bot_keeps_to_the_allowed_declarations() -> None:
    state = first_state(7, lambda state: state.pending is DecisionKind.DECLARE)
    view = view_of(state, state.id_of(state.to_move))

    for only in range(9):
        allowed = view.model_copy(update={"allowed_declarations": (only,)})
        assert bot.choose_declaration(allowed) == Declaration(piles=only)


def test_a_weak_hand_is_dealt_again_unless_its_player_is_ahead() -> None:
    state = first_state(7, lambda state: state.pending is DecisionKind.DECLARE)
    view = view_of(state, "Ann").model_copy(update={"hand": pieces("Cb Hr Hb Kr Kb Sr Sb Sb")})
    ahead = view.model_copy(update={"seats": (view.seats[0].model_copy(update={"score": 9}), *view.seats[1:])})

    assert bot.answer_redeal(view).redeal is True
    assert bot.answer_redeal(ahead).redeal is False


def test_declaring_without_being_asked_is_an_error() -> None:
    with pytest.raises(ValueError, match="Dee is not asked to declare"):
        bot.choose_declaration(seen("Gr", declared=1, leads=True))


def test_playing_from_too_small_a_hand_is_an_error() -> None:
    view = seen("Gr Ar", declared=1, table=("Kr Kr", "Sr Sr", "Sb Sb"))

    with pytest.raises(ValueError, match="Dee has 2 pieces, 3 are needed"):
        bot.choose_play(view.model_copy(update={"required_pieces": 3}))


# The estimate


def test_the_best_piece_of_all_is_certain_to_hold_its_turn_and_the_least_is_not() -> None:
    estimate = Estimate(seen("Gr Ab Eb Cr Hr Kr Sr Sb", declared=1, leads=True))

    assert estimate.chance(pieces("Gr")) == 1.0
    assert 0.0 < estimate.chance(pieces("Sb")) < 0.05


def test_a_piece_gains_when_the_better_ones_have_been_played() -> None:
    before = Estimate(seen("Gb Sb", declared=1, leads=True))
    after = Estimate(seen("Gb Sb", declared=1, leads=True, played="Gr"))

    assert before.chance(pieces("Gb")) < after.chance(pieces("Gb")) == 1.0


def test_a_hand_promises_more_to_whoever_leads() -> None:
    hand = "Gb Ab Eb Sr Sr Sr Hb Kb"
    view = seen(hand, declared=1, leads=True)

    assert Estimate(view).piles > Estimate(view.model_copy(update={"leader": "Ann"})).piles


@few
@given(SEEDS)
def test_the_plan_uses_every_piece_once_in_valid_sets(seed: int) -> None:
    state = first_state(seed, lambda state: state.pending is DecisionKind.DECLARE)
    view = view_of(state, "Cho")

    estimate = Estimate(view)

    assert ordered(piece for planned in estimate.plan for piece in planned) == view.hand
    assert all(set_type(planned) is not None for planned in estimate.plan)
    assert 0.0 <= estimate.piles <= 8.0
