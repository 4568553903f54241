"""The course of a game of Liap Tui: which move is asked for, whether it is legal, and what follows from it.

Two pure transitions: ``start_game`` and ``apply_move``. Between them the game waits for exactly one player
(``state.to_move``) to answer exactly one question (``state.pending``).

A round: deal; the holders of weak hands may ask for a redeal, in playing order, until one does (then all is dealt
again, the multiplier rises by one, the asker starts) or all keep their hands; declarations from the starter on;
turns until the hands are empty; points. Leaves to the table: rooms, clocks, and who computes the moves.

Choices where the rules are silent:
* In round 1 after a redeal the asker starts, not the holder of GENERAL_RED.
* Whoever asked once may ask again when the new hand is weak too.
* The first to 50 is looked for when a round has been scored; several may win with equal points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from game_tasks.events import GameEventType
from game_tasks.moves import DecisionKind, Declaration, IllegalMoveError, Move, Play, RedealAnswer
from game_tasks.pieces import SEATS, Hand, Piece, is_weak, ordered, without
from game_tasks.scoring import allowed_declarations, best, is_over, round_points
from game_tasks.sets import beats, set_type, turn_winner
from game_tasks.state import GameState, Happening, PlayerState, RoundResult, Step, deal_hands, seats_from

__all__ = ["apply_move", "start_game", "winners"]


def start_game(player_ids: Sequence[str], seed: int) -> Step:
    """Seat 4 players in this order, deal the first round, and ask the first question.

    Raises ValueError unless there are 4 different names.
    """
    if len(set(player_ids)) != SEATS or len(player_ids) != SEATS:
        raise ValueError(f"a game needs {SEATS} different players, not {list(player_ids)}")
    players = tuple(PlayerState(player_id=player_id) for player_id in player_ids)
    dealt = _deal_round(GameState(seed=seed, players=players), asker=None)
    started = _happening(GameEventType.GAME_STARTED, players=list(player_ids))
    return Step(state=dealt.state, happened=(started, *dealt.happened))


def apply_move(state: GameState, player_id: str, move: Move) -> Step:
    """Apply the answer of the player whose turn it is.

    Raises IllegalMoveError, naming what would be legal, for any other player, another kind of answer, or an answer
    against the rules.
    """
    if state.pending is None:
        raise IllegalMoveError(player_id, move, "the game is over")
    mover = state.id_of(state.to_move)
    if player_id != mover:
        raise IllegalMoveError(player_id, move, f"it is {mover}'s turn")
    if state.pending is DecisionKind.REDEAL and isinstance(move, RedealAnswer):
        return _answer_redeal(state, move)
    if state.pending is DecisionKind.DECLARE and isinstance(move, Declaration):
        return _declare(state, move)
    if state.pending is DecisionKind.PLAY and isinstance(move, Play):
        return _play(state, move)
    raise IllegalMoveError(player_id, move, f"the question is {state.pending}")


def winners(state: GameState) -> tuple[str, ...]:
    """Name the winners of a game that is over, in seat order; empty before that."""
    return best(state.scores) if state.pending is None else ()


def _deal_round(state: GameState, asker: int | None) -> Step:
    """Deal; with an asker it is a redeal of the same round."""
    hands = deal_hands(state)
    if asker is not None:
        starter, multiplier = asker, state.multiplier + 1
    else:
        starter, multiplier = state.leader, 1
        if state.round_number == 1:
            starter = next(seat for seat, hand in enumerate(hands) if Piece.GENERAL_RED in hand)
    players = tuple(
        replace(player, hand=hand, declared=None, taken=0) for player, hand in zip(state.players, hands, strict=True)
    )
    dealt = replace(
        state,
        players=players,
        deals=state.deals + 1,
        multiplier=multiplier,
        weak_seats=tuple(seat for seat in seats_from(starter) if is_weak(hands[seat])),
        starter=starter,
        turn_number=0,
        leader=starter,
        plays=(),
        played=(),
    )
    return _after(_ask_next_weak_seat(dealt), _phase(dealt, "dealt"))


def _ask_next_weak_seat(state: GameState) -> Step:
    if state.weak_seats:
        asked = replace(state, pending=DecisionKind.REDEAL, to_move=state.weak_seats[0])
        return Step(state=asked, happened=())
    declaring = replace(state, pending=DecisionKind.DECLARE, to_move=state.starter)
    return Step(state=declaring, happened=(_phase(declaring, "declaring"),))


def _answer_redeal(state: GameState, move: RedealAnswer) -> Step:
    if not move.redeal:
        return _ask_next_weak_seat(replace(state, weak_seats=state.weak_seats[1:]))
    asked = _happening(
        GameEventType.REDEAL_REQUESTED,
        state.id_of(state.to_move),
        round=state.round_number,
        multiplier=state.multiplier + 1,
    )
    return _after(_deal_round(state, asker=state.to_move), asked)


def _declare(state: GameState, move: Declaration) -> Step:
    player = state.players[state.to_move]
    allowed = allowed_declarations(state.declared_in_order, player.zeros_in_a_row)
    if move.piles not in allowed:
        raise IllegalMoveError(player.player_id, move, f"allowed are {', '.join(map(str, allowed))}")
    declared = replace(_with_player(state, replace(player, declared=move.piles)), to_move=(state.to_move + 1) % SEATS)
    made = _happening(GameEventType.DECLARATION_MADE, player.player_id, round=state.round_number, piles=move.piles)
    if declared.to_move != state.starter:
        return Step(state=declared, happened=(made,))
    playing = replace(declared, pending=DecisionKind.PLAY)
    return _after(_start_turn(playing, state.starter), made, _phase(playing, "playing"))


def _start_turn(state: GameState, leader: int) -> Step:
    turn = replace(state, turn_number=state.turn_number + 1, leader=leader, to_move=leader, plays=())
    started = _happening(GameEventType.TURN_STARTED, turn.id_of(leader), round=turn.round_number, turn=turn.turn_number)
    return Step(state=turn, happened=(started,))


def _play(state: GameState, move: Play) -> Step:
    player = state.players[state.to_move]
    pieces = ordered(move.pieces)
    try:
        hand = without(player.hand, pieces)
    except ValueError as error:
        raise IllegalMoveError(player.player_id, move, str(error)) from error
    kind_of_set = set_type(pieces)
    if not state.plays and kind_of_set is None:
        raise IllegalMoveError(player.player_id, move, "the leader of a turn must play a valid set")
    if state.plays and len(pieces) != len(state.plays[0]):
        raise IllegalMoveError(player.player_id, move, f"{len(state.plays[0])} pieces must be played")
    played = replace(
        _with_player(state, replace(player, hand=hand)),
        plays=(*state.plays, pieces),
        to_move=(state.to_move + 1) % SEATS,
    )
    told = _happening(
        GameEventType.PIECE_PLAYED,
        player.player_id,
        round=state.round_number,
        turn=state.turn_number,
        pieces=_names(pieces),
        set_type=None if kind_of_set is None else kind_of_set.value,
        holds_the_turn=_takes_lead(state.plays, pieces),
    )
    if len(played.plays) < SEATS:
        return Step(state=played, happened=(told,))
    return _after(_end_turn(played), told)


def _takes_lead(earlier: tuple[Hand, ...], pieces: Hand) -> bool:
    return not earlier or beats(pieces, earlier[turn_winner(earlier)])


def _end_turn(state: GameState) -> Step:
    winning_play = turn_winner(state.plays)
    seat = (state.leader + winning_play) % SEATS
    piles = len(state.plays[0])
    winner = replace(state.players[seat], taken=state.players[seat].taken + piles)
    ended = replace(
        _with_player(state, winner),
        played=state.played + tuple(piece for play in state.plays for piece in play),
        plays=(),
        leader=seat,
        to_move=seat,
    )
    told = _happening(
        GameEventType.TURN_ENDED,
        winner.player_id,
        round=state.round_number,
        turn=state.turn_number,
        piles=piles,
        pieces=_names(state.plays[winning_play]),
        taken={player.player_id: player.taken for player in ended.players},
    )
    if winner.hand:
        return _after(_start_turn(ended, seat), told)
    return _after(_score_round(ended), told)


def _score_round(state: GameState) -> Step:
    declared = tuple(player.declared or 0 for player in state.players)
    taken = tuple(player.taken for player in state.players)
    points = tuple(round_points(foreseen, got, state.multiplier) for foreseen, got in zip(declared, taken, strict=True))
    result = RoundResult(
        round_number=state.round_number,
        starter=state.id_of(state.starter),
        multiplier=state.multiplier,
        declared=declared,
        taken=taken,
        points=points,
    )
    players = tuple(
        replace(
            player,
            score=player.score + earned,
            zeros_in_a_row=player.zeros_in_a_row + 1 if player.declared == 0 else 0,
        )
        for player, earned in zip(state.players, points, strict=True)
    )
    scored = replace(state, players=players, history=(*state.history, result))
    ids = tuple(scored.scores)
    told = _phase(
        scored,
        "scored",
        declared=dict(zip(ids, declared, strict=True)),
        taken=dict(zip(ids, taken, strict=True)),
        points=dict(zip(ids, points, strict=True)),
    )
    if is_over(tuple(scored.scores.values()), len(scored.history)):
        over = replace(scored, pending=None)
        ended = _happening(
            GameEventType.GAME_ENDED,
            winners=list(winners(over)),
            scores=over.scores,
            rounds=len(over.history),
        )
        return Step(state=over, happened=(told, ended))
    return _after(_deal_round(replace(scored, round_number=state.round_number + 1), asker=None), told)


def _with_player(state: GameState, player: PlayerState) -> GameState:
    players = tuple(player if each.player_id == player.player_id else each for each in state.players)
    return replace(state, players=players)


def _names(pieces: Hand) -> list[str]:
    return [piece.value for piece in pieces]


def _happening(event_type: GameEventType, player_id: str | None = None, /, **data: Any) -> Happening:
    return Happening(event_type=event_type, player_id=player_id, data=data)


def _phase(state: GameState, phase: str, **data: Any) -> Happening:
    return _happening(
        GameEventType.STATE_CHANGED,
        phase=phase,
        round=state.round_number,
        starter=state.id_of(state.starter),
        multiplier=state.multiplier,
        scores=state.scores,
        **data,
    )


def _after(step: Step, *earlier: Happening) -> Step:
    return Step(state=step.state, happened=(*earlier, *step.happened))
