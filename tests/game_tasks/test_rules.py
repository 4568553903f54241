from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from game_tasks.events import GameEventType
from game_tasks.moves import DecisionKind, Declaration, IllegalMoveError, Move, Play, RedealAnswer
from game_tasks.pieces import DECK, Hand, Piece, is_weak
from game_tasks.rules import apply_move, start_game, winners
from game_tasks.scoring import round_points
from game_tasks.sets import set_type
from game_tasks.state import GameState, deal_hands
from tests.game_tasks.games import PLAYERS, anything_legal, as_few_piles_as_allowed, pieces, walk

SEEDS = st.integers(min_value=0, max_value=10**9)
few = settings(max_examples=8, deadline=None)

STRONG = "Gr Ar Er Cr Hr Kr Sr Sr"
OTHERS = ("Gb Ab Eb Cb Hb Kb Sb Sb", "Ar Er Cr Hr Kr Sr Sr Sr", "Ab Eb Cb Hb Kb Sb Sb Sb")
WEAK = "Eb Cr Cb Hr Hb Kr Sr Sb"


def table_with(state: GameState, hands: tuple[str, ...]) -> GameState:
    players = tuple(replace(player, hand=pieces(hand)) for player, hand in zip(state.players, hands, strict=True))
    return replace(state, players=players)


def asking_for_redeal(weak_seats: tuple[int, ...]) -> GameState:
    hands = tuple(WEAK if seat in weak_seats else STRONG for seat in range(4))
    state = table_with(start_game(PLAYERS, seed=1).state, hands)
    return replace(
        state, pending=DecisionKind.REDEAL, weak_seats=weak_seats, to_move=weak_seats[0], starter=weak_seats[0]
    )


def in_turn(hands: tuple[str, ...], leader: int = 0, declared: tuple[int, ...] = (1, 1, 1, 1)) -> GameState:
    state = table_with(start_game(PLAYERS, seed=1).state, hands)
    players = tuple(replace(player, declared=piles) for player, piles in zip(state.players, declared, strict=True))
    return replace(
        state,
        players=players,
        pending=DecisionKind.PLAY,
        weak_seats=(),
        starter=leader,
        leader=leader,
        to_move=leader,
        turn_number=1,
    )


def declaring(zeros: tuple[int, ...] = (0, 0, 0, 0)) -> GameState:
    state = start_game(PLAYERS, seed=1).state
    players = tuple(replace(player, zeros_in_a_row=count) for player, count in zip(state.players, zeros, strict=True))
    return replace(state, players=players, pending=DecisionKind.DECLARE, weak_seats=(), starter=0, leader=0, to_move=0)


def answer_all(state: GameState, *moves: Move) -> GameState:
    for move in moves:
        state = apply_move(state, state.id_of(state.to_move), move).state
    return state


# A whole game, whatever is played


@few
@given(SEEDS)
def test_a_game_always_ends_and_not_later_than_it_must(seed: int) -> None:
    *_, (_, _, last) = walk(seed)

    rounds = last.state.history
    totals = [0, 0, 0, 0]
    for number, result in enumerate(rounds, start=1):
        assert number <= 20
        assert max(totals) < 50, "a round was played after somebody had 50 points"
        totals = [total + points for total, points in zip(totals, result.points, strict=True)]
    assert list(last.state.scores.values()) == totals
    assert max(totals) >= 50 or len(rounds) == 20
    assert [last.state.scores[name] for name in winners(last.state)] == [max(totals)] * len(winners(last.state))
    assert last.happened[-1].event_type is GameEventType.GAME_ENDED


@few
@given(SEEDS)
def test_no_piece_is_lost_or_doubled(seed: int) -> None:
    for _, _, step in walk(seed):
        state = step.state
        seen = Counter(state.played)
        for hand in (*(player.hand for player in state.players), *state.plays):
            seen.update(hand)
        assert seen == Counter(DECK)


@few
@given(SEEDS)
def test_every_round_gives_away_eight_piles_and_pays_by_the_table(seed: int) -> None:
    *_, (_, _, last) = walk(seed)

    for result in last.state.history:
        assert sum(result.taken) == 8
        assert result.points == tuple(
            round_points(declared, taken, result.multiplier)
            for declared, taken in zip(result.declared, result.taken, strict=True)
        )


@few
@given(SEEDS)
def test_declarations_never_sum_to_eight(seed: int) -> None:
    *_, (_, _, last) = walk(seed)

    assert all(sum(result.declared) != 8 for result in last.state.history)


@few
@given(SEEDS)
def test_whoever_declares_as_little_as_allowed_declares_one_after_every_two_zeros(seed: int) -> None:
    *_, (_, _, last) = walk(seed, as_few_piles_as_allowed(random.Random(seed)))

    rounds = last.state.history
    for seat in range(4):
        assert [result.declared[seat] for result in rounds] == [0, 0, 1, *([0, 0, 1] * 6)][: len(rounds)]


@few
@given(SEEDS)
def test_each_round_starts_with_whom_the_rules_name(seed: int) -> None:
    turn_winner_of_last_round = asker = None
    for before, move, step in walk(seed):
        if isinstance(move, RedealAnswer) and move.redeal:
            asker = before.id_of(before.to_move)
        for happening in step.happened:
            if happening.event_type is GameEventType.TURN_ENDED:
                turn_winner_of_last_round = happening.player_id
            if happening.data.get("phase") != "dealt":
                continue
            state = step.state
            if asker is not None:
                expected = asker
            elif state.round_number == 1:
                expected = next(p.player_id for p in state.players if Piece.GENERAL_RED in p.hand)
            else:
                expected = turn_winner_of_last_round
            assert happening.data["starter"] == state.id_of(state.starter) == expected
            asker = None


@few
@given(SEEDS)
def test_every_turn_is_led_by_a_valid_set_and_followed_with_as_many_pieces(seed: int) -> None:
    for before, move, _ in walk(seed):
        if isinstance(move, Play):
            lead: Hand = before.plays[0] if before.plays else move.pieces
            assert set_type(lead) is not None
            assert len(move.pieces) == len(lead) <= 6


@few
@given(SEEDS)
def test_only_weak_hands_are_asked_about_a_redeal(seed: int) -> None:
    for _, _, step in walk(seed):
        state = step.state
        asked = state.pending is DecisionKind.REDEAL
        assert asked is bool(state.weak_seats)
        if asked:
            assert is_weak(state.players[state.to_move].hand)


@few
@given(SEEDS)
def test_the_same_seed_and_answers_are_the_same_game(seed: int) -> None:
    one = list(walk(seed, anything_legal(random.Random(seed))))
    other = list(walk(seed, anything_legal(random.Random(seed))))

    assert one == other


@settings(max_examples=5, deadline=None)
@given(SEEDS, st.integers(min_value=0, max_value=60))
def test_a_state_read_back_from_json_goes_on_the_same_way(seed: int, moves: int) -> None:
    stored = TypeAdapter(GameState)
    before, move, step = list(walk(seed))[moves + 1]
    assert move is not None

    read_back = stored.validate_json(stored.dump_json(before))

    assert read_back == before
    assert apply_move(read_back, before.id_of(before.to_move), move) == step


# Starting


@pytest.mark.parametrize("names", [("Ann", "Ben", "Cho"), ("Ann", "Ben", "Cho", "Ann"), (*PLAYERS, "Eve")])
def test_a_game_needs_four_different_players(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="4 different players"):
        start_game(names, seed=1)


def test_other_seeds_deal_other_hands() -> None:
    hands = {start_game(PLAYERS, seed).state.players[0].hand for seed in range(20)}

    assert len(hands) == 20


def test_every_deal_of_a_game_is_another_one() -> None:
    state = start_game(PLAYERS, seed=1).state

    assert len({deal_hands(replace(state, deals=deals)) for deals in range(20)}) == 20


# Redeal


def test_asking_for_a_redeal_raises_the_multiplier_and_makes_the_asker_start() -> None:
    state = asking_for_redeal((1, 3))

    kept = apply_move(state, "Ben", RedealAnswer(redeal=False)).state
    step = apply_move(kept, "Dee", RedealAnswer(redeal=True))

    assert (kept.pending, kept.to_move) == (DecisionKind.REDEAL, 3)
    assert step.state.multiplier == 2
    assert step.state.id_of(step.state.starter) == "Dee"
    assert step.state.round_number == 1
    assert step.state.players[3].hand != state.players[3].hand
    assert step.happened[0].event_type is GameEventType.REDEAL_REQUESTED
    assert step.happened[0].player_id == "Dee"


def test_each_redeal_of_a_round_adds_one_to_the_multiplier() -> None:
    state = asking_for_redeal((0,))
    for expected in (2, 3, 4):
        state = apply_move(state, "Ann", RedealAnswer(redeal=True)).state
        assert state.multiplier == expected
        state = replace(state, pending=DecisionKind.REDEAL, weak_seats=(0,), to_move=0)


def test_declaring_begins_when_all_weak_hands_are_kept() -> None:
    state = answer_all(asking_for_redeal((2, 3)), RedealAnswer(redeal=False), RedealAnswer(redeal=False))

    assert (state.pending, state.to_move, state.multiplier) == (DecisionKind.DECLARE, 2, 1)


# Declaring


def test_the_last_declarer_may_not_make_the_sum_eight() -> None:
    state = answer_all(declaring(), Declaration(piles=1), Declaration(piles=2), Declaration(piles=3))

    with pytest.raises(IllegalMoveError, match="allowed are 0, 1, 3, 4, 5, 6, 7, 8"):
        apply_move(state, "Dee", Declaration(piles=2))
    assert answer_all(state, Declaration(piles=3)).pending is DecisionKind.PLAY


def test_zero_is_refused_after_two_rounds_of_zero() -> None:
    with pytest.raises(IllegalMoveError, match="allowed are 1, 2, 3"):
        apply_move(declaring(zeros=(2, 0, 0, 0)), "Ann", Declaration(piles=0))

    assert answer_all(declaring(zeros=(1, 0, 0, 0)), Declaration(piles=0)).players[0].declared == 0


# Playing


def test_the_winner_takes_as_many_piles_as_pieces_played_and_leads_next() -> None:
    state = in_turn((STRONG, *OTHERS))

    state = answer_all(
        state,
        Play(pieces=pieces("Cr Hr Kr")),
        Play(pieces=pieces("Gb Ab Eb")),
        Play(pieces=pieces("Ar Er Sr")),
        Play(pieces=pieces("Sb Sb Sb")),
    )

    assert [player.taken for player in state.players] == [0, 3, 0, 0]
    assert (state.id_of(state.leader), state.id_of(state.to_move), state.turn_number) == ("Ben", "Ben", 2)
    assert state.plays == ()
    assert len(state.played) == 12


def test_a_tie_stays_with_the_earlier_player() -> None:
    state = in_turn(("Ar", "Ar", "Sb", "Sr"), leader=1)

    step = apply_move(
        answer_all(state, *[Play(pieces=pieces(piece)) for piece in ("Ar", "Sb", "Sr")]),
        "Ann",
        Play(pieces=pieces("Ar")),
    )

    ended = next(h for h in step.happened if h.event_type is GameEventType.TURN_ENDED)
    assert ended.player_id == "Ben"


def test_each_play_is_told_with_its_type_and_whether_it_holds_the_turn() -> None:
    state = in_turn((STRONG, *OTHERS))
    told = []
    for play in ("Cr Hr Kr", "Gb Ab Eb", "Ar Er Sr", "Sb Sb Sb"):
        step = apply_move(state, state.id_of(state.to_move), Play(pieces=pieces(play)))
        told.append((step.happened[0].data["set_type"], step.happened[0].data["holds_the_turn"]))
        state = step.state

    assert told == [("STRAIGHT", True), ("STRAIGHT", True), (None, False), ("THREE_OF_A_KIND", False)]


@pytest.mark.parametrize(
    ("earlier", "play", "why"),
    [
        ([], "Gr Ar", "must play a valid set"),
        ([], "Gb", "GENERAL_BLACK is not in the hand"),
        ([], "Gr Gr", "GENERAL_RED is not in the hand"),
        (["Cr Hr Kr"], "Gb Ab", "3 pieces must be played"),
        (["Cr Hr Kr"], "Gr Ar Er", "GENERAL_RED is not in the hand"),
    ],
)
def test_an_illegal_play_is_refused_with_its_reason(earlier: list[str], play: str, why: str) -> None:
    state = answer_all(in_turn((STRONG, *OTHERS)), *[Play(pieces=pieces(each)) for each in earlier])
    player_id = state.id_of(state.to_move)

    with pytest.raises(IllegalMoveError, match=why) as caught:
        apply_move(state, player_id, Play(pieces=pieces(play)))

    assert (caught.value.player_id, caught.value.move) == (player_id, Play(pieces=pieces(play)))


def test_the_last_turn_scores_the_round_with_its_multiplier_and_deals_the_next() -> None:
    state = replace(in_turn(("Gr", "Gb", "Sb", "Sr"), declared=(1, 1, 0, 2)), multiplier=2)

    state = answer_all(state, *[Play(pieces=pieces(piece)) for piece in ("Gr", "Gb", "Sb", "Sr")])

    assert state.history[0].points == (12, -2, 6, -4)
    assert state.scores == {"Ann": 12, "Ben": -2, "Cho": 6, "Dee": -4}
    assert [player.zeros_in_a_row for player in state.players] == [0, 0, 1, 0]
    assert (state.round_number, state.multiplier, state.id_of(state.starter)) == (2, 1, "Ann")
    assert all(len(player.hand) == 8 and player.declared is None for player in state.players)


def test_the_game_ends_with_the_round_that_reaches_fifty() -> None:
    state = in_turn(("Gr", "Gb", "Sb", "Sr"), declared=(1, 1, 0, 2))
    players = (replace(state.players[0], score=44), *state.players[1:])

    state = answer_all(
        replace(state, players=players), *[Play(pieces=pieces(each)) for each in ("Gr", "Gb", "Sb", "Sr")]
    )

    assert state.pending is None
    assert winners(state) == ("Ann",)
    with pytest.raises(IllegalMoveError, match="the game is over"):
        apply_move(state, "Ann", Play(pieces=pieces("Gr")))


def test_nobody_has_won_before_the_end() -> None:
    assert winners(start_game(PLAYERS, seed=1).state) == ()


# Whose turn, and which question


def test_a_move_out_of_turn_names_whose_turn_it_is() -> None:
    with pytest.raises(IllegalMoveError, match="it is Ann's turn"):
        apply_move(declaring(), "Ben", Declaration(piles=1))


@pytest.mark.parametrize(
    ("state", "move", "question"),
    [
        (declaring(), RedealAnswer(redeal=True), "declare"),
        (asking_for_redeal((0,)), Declaration(piles=1), "redeal"),
        (declaring(), Play(pieces=pieces("Gr")), "declare"),
        (in_turn((STRONG, *OTHERS)), Declaration(piles=1), "play"),
    ],
)
def test_the_answer_to_another_question_is_refused(state: GameState, move: Move, question: str) -> None:
    with pytest.raises(IllegalMoveError, match=f"the question is {question}"):
        apply_move(state, "Ann", move)
