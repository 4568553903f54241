from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from game_tasks.moves import ANSWERS, DecisionKind, Declaration, Play, RedealAnswer
from game_tasks.pieces import Piece
from game_tasks.rules import start_game
from game_tasks.state import GameState, PlayerState
from game_tasks.views import PlayerView, SeatView, TablePlay, view_of
from tests.game_tasks.games import PLAYERS, first_state, pieces, walk

SEEDS = st.integers(min_value=0, max_value=10**9)
few = settings(max_examples=4, deadline=None)


def with_the_others_hands_exchanged(state: GameState, player_id: str) -> GameState:
    """Deal the hidden pieces of the others anew among them, each keeping the size of their hand."""
    others = [player for player in state.players if player.player_id != player_id]
    hidden = [piece for player in others for piece in player.hand][::-1]
    exchanged = []
    for player in state.players:
        if player.player_id == player_id:
            exchanged.append(player)
            continue
        size = len(player.hand)
        exchanged.append(replace(player, hand=tuple(hidden[:size])))
        hidden = hidden[size:]
    return replace(state, players=tuple(exchanged))


@few
@given(SEEDS)
def test_a_view_does_not_depend_on_the_hands_of_others(seed: int) -> None:
    exchanged_any = False
    for _, _, step in walk(seed):
        for player_id in PLAYERS:
            other = with_the_others_hands_exchanged(step.state, player_id)
            exchanged_any |= other != step.state
            assert view_of(step.state, player_id) == view_of(other, player_id)
    assert exchanged_any


@few
@given(SEEDS)
def test_a_view_comes_back_from_json_as_it_was(seed: int) -> None:
    for _, _, step in list(walk(seed))[::7]:
        for player_id in PLAYERS:
            view = view_of(step.state, player_id)
            assert PlayerView.model_validate_json(view.model_dump_json()) == view


@few
@given(SEEDS)
def test_exactly_the_player_to_move_is_asked(seed: int) -> None:
    for _, _, step in walk(seed):
        asked = {name: view_of(step.state, name).decision for name in PLAYERS}
        if step.state.pending is None:
            assert set(asked.values()) == {None}
        else:
            mover = step.state.id_of(step.state.to_move)
            assert asked == {name: step.state.pending if name == mover else None for name in PLAYERS}


def test_a_view_shows_everything_its_player_may_know() -> None:
    hands = ("Gr Sr", "Ar", "Eb", "Ab Sb")
    players = tuple(
        PlayerState(
            player_id=name, hand=pieces(hand), declared=seat, taken=seat + 1, score=10 * seat, zeros_in_a_row=seat
        )
        for seat, (name, hand) in enumerate(zip(PLAYERS, hands, strict=True))
    )
    state = GameState(
        seed=1,
        players=players,
        pending=DecisionKind.PLAY,
        to_move=3,
        round_number=4,
        multiplier=3,
        starter=2,
        turn_number=5,
        leader=1,
        plays=(pieces("Kr"), pieces("Cb")),
        played=pieces("Gb Ar Ar Sr"),
    )

    assert view_of(state, "Dee") == PlayerView(
        player_id="Dee",
        decision=DecisionKind.PLAY,
        round_number=4,
        turn_number=5,
        multiplier=3,
        starter="Cho",
        leader="Ben",
        position=2,
        hand=pieces("Ab Sb"),
        seats=(
            SeatView(player_id="Ann", score=0, declared=0, taken=1, pieces_left=2),
            SeatView(player_id="Ben", score=10, declared=1, taken=2, pieces_left=1),
            SeatView(player_id="Cho", score=20, declared=2, taken=3, pieces_left=1),
            SeatView(player_id="Dee", score=30, declared=3, taken=4, pieces_left=2),
        ),
        table=(
            TablePlay(player_id="Ben", pieces=pieces("Kr")),
            TablePlay(player_id="Cho", pieces=pieces("Cb")),
        ),
        played=pieces("Gb Ar Ar Sr"),
        allowed_declarations=(),
        required_pieces=1,
        zeros_in_a_row=3,
    )


def test_allowed_declarations_are_shown_to_the_declarer_only() -> None:
    state = first_state(7, lambda state: state.pending is DecisionKind.DECLARE)
    mover = state.id_of(state.to_move)

    assert view_of(state, mover).allowed_declarations == tuple(range(9))
    assert all(view_of(state, name).allowed_declarations == () for name in PLAYERS if name != mover)


def test_nobody_sees_a_game_without_playing_in_it() -> None:
    with pytest.raises(ValueError, match="'Eve' does not play in this game; its players: Ann, Ben, Cho, Dee"):
        view_of(start_game(PLAYERS, seed=1).state, "Eve")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"player_id": "Eve"}, "sits at no seat"),
        ({"hand": ["GENERAL_RED"]}, "pieces_left=8"),
        ({"hand": ["JOKER"]}, "JOKER"),
        ({"decision": "declare", "allowed_declarations": []}, "allowed_declarations is empty"),
        ({"decision": "shuffle"}, "decision"),
        ({"seats": []}, "seats"),
        ({"others_hands": []}, "others_hands"),
    ],
)
def test_a_view_that_contradicts_itself_is_refused(wrong: dict[str, object], why: str) -> None:
    right = view_of(start_game(PLAYERS, seed=1).state, "Ann").model_dump(mode="json")

    with pytest.raises(ValidationError, match=why):
        PlayerView.model_validate(right | wrong)


@pytest.mark.parametrize(
    ("kind", "move", "as_json"),
    [
        (DecisionKind.REDEAL, RedealAnswer(redeal=True), {"redeal": True}),
        (DecisionKind.DECLARE, Declaration(piles=3), {"piles": 3}),
        (
            DecisionKind.PLAY,
            Play(pieces=(Piece.GENERAL_RED, Piece.SOLDIER_BLACK)),
            {"pieces": ["GENERAL_RED", "SOLDIER_BLACK"]},
        ),
    ],
)
def test_an_answer_comes_back_from_json_as_it_was(
    kind: DecisionKind, move: RedealAnswer | Declaration | Play, as_json: dict[str, object]
) -> None:
    assert move.model_dump(mode="json") == as_json
    assert ANSWERS[kind].model_validate(as_json) == move


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (DecisionKind.DECLARE, {"piles": 9}),
        (DecisionKind.DECLARE, {"piles": -1}),
        (DecisionKind.PLAY, {"pieces": []}),
        (DecisionKind.PLAY, {"pieces": ["SOLDIER_RED"] * 7}),
        (DecisionKind.PLAY, {"pieces": ["JOKER"]}),
        (DecisionKind.REDEAL, {}),
    ],
)
def test_what_can_never_be_an_answer_is_refused(kind: DecisionKind, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ANSWERS[kind].model_validate(wrong)
