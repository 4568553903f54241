"""A bot that plays for its declaration: it wants exactly the piles it foresaw.

Each function answers one question from a view alone. The same view and seed give the same answer, in any process. The
seed is the bot's temperament: how boldly it declares, and which of equal choices it takes.

* Redeal: a weak hand is kept when it promises something or when this player leads and has nothing to gain from a
  higher multiplier.
* Declaration: the legal number nearest to what the hand promises, less when the others have left little.
* Play: while piles are missing, lead the surest set that does not take too many, win as cheaply as the others let it,
  and keep the good sets; once the declaration is met, get rid of what might still win.
"""

from __future__ import annotations

import random
from itertools import combinations

from game_tasks.estimate import Estimate
from game_tasks.moves import DecisionKind, Declaration, Move, Play, RedealAnswer
from game_tasks.pieces import Hand, Piece
from game_tasks.scoring import PILES
from game_tasks.sets import beats, turn_winner, valid_sets
from game_tasks.views import PlayerView

__all__ = ["answer_redeal", "choose_declaration", "choose_play", "decide"]

_WORTH_KEEPING = 2.0
_BOLDNESS = 0.35
_SURE_ENOUGH = 0.6


def decide(view: PlayerView, kind: DecisionKind, seed: int = 0) -> Move:
    """Answer the question that the view's player is asked."""
    if kind is DecisionKind.REDEAL:
        return answer_redeal(view, seed)
    if kind is DecisionKind.DECLARE:
        return choose_declaration(view, seed)
    return choose_play(view, seed)


def answer_redeal(view: PlayerView, seed: int = 0) -> RedealAnswer:
    """Ask for a redeal unless the weak hand promises 2 piles or this player is ahead of all others."""
    ahead = all(view.own_seat.score > other.score for other in view.others)
    return RedealAnswer(redeal=not ahead and Estimate(view).piles < _WORTH_KEEPING)


def choose_declaration(view: PlayerView, seed: int = 0) -> Declaration:
    """Declare the allowed number of piles nearest to what the hand promises.

    Raises ValueError when the view's player is not asked to declare.
    """
    if not view.allowed_declarations:
        raise ValueError(f"{view.player_id} is not asked to declare")
    rng = _chance(view, seed)
    expected = Estimate(view).piles
    left = PILES - sum(seat.declared or 0 for seat in view.others)
    if expected > left:
        expected = (expected + max(left, 0)) / 2
    expected += rng.uniform(-_BOLDNESS, _BOLDNESS)
    return Declaration(piles=min(view.allowed_declarations, key=lambda piles: abs(piles - expected)))


def choose_play(view: PlayerView, seed: int = 0) -> Play:
    """Choose the pieces of this turn: a valid set for the leader, the required number for a follower.

    Raises ValueError when there is nothing to choose from: an empty hand, or fewer pieces than required.
    """
    if not view.hand or len(view.hand) < (view.required_pieces or 1):
        raise ValueError(f"{view.player_id} has {len(view.hand)} pieces, {view.required_pieces or 1} are needed")
    estimate = Estimate(view)
    rng = _chance(view, seed)
    if view.required_pieces is None:
        return Play(pieces=_lead(view, estimate, rng))
    return Play(pieces=_follow(view, estimate, view.required_pieces, rng))


def _missing(view: PlayerView) -> int:
    """Count the piles still to take; negative once there are too many."""
    return (view.own_seat.declared or 0) - view.own_seat.taken


def _lead(view: PlayerView, estimate: Estimate, rng: random.Random) -> Hand:
    missing = _missing(view)
    if missing > 0:
        fitting = [pieces for pieces in estimate.plan if len(pieces) <= missing]
        fitting = fitting or list(valid_sets(view.hand, 1))
        sure = [pieces for pieces in fitting if estimate.chance(pieces) >= _SURE_ENOUGH]
        if sure:
            return max(sure, key=lambda pieces: (len(pieces), estimate.chance(pieces), rng.random()))
        return min(fitting, key=lambda pieces: (estimate.chance(pieces), len(pieces), rng.random()))
    return min(
        valid_sets(view.hand),
        key=lambda pieces: (estimate.chance(pieces) * len(pieces), -_points(pieces), rng.random()),
    )


def _follow(view: PlayerView, estimate: Estimate, required: int, rng: random.Random) -> Hand:
    plays = [play.pieces for play in view.table]
    holding = plays[turn_winner(plays)]
    missing = _missing(view)
    winning = [pieces for pieces in valid_sets(view.hand, required) if beats(pieces, holding)]
    if missing >= required and winning:
        surest = max(estimate.chance(pieces) for pieces in winning)
        as_sure = [pieces for pieces in winning if estimate.chance(pieces) >= surest - 0.1]
        return min(as_sure, key=_points)
    choices = sorted(set(combinations(view.hand, required)), key=_spelled)
    losing = [pieces for pieces in choices if not beats(pieces, holding)]
    if not losing:
        return min(winning, key=lambda pieces: (estimate.chance(pieces), _points(pieces)))
    if missing <= 0:
        return max(losing, key=lambda pieces: (_points(pieces), rng.random()))
    worth = _worth(estimate)
    return min(losing, key=lambda pieces: (sum(worth[piece] for piece in pieces), _points(pieces), rng.random()))


def _worth(estimate: Estimate) -> dict[Piece, float]:
    """Say what each piece of the hand is good for: the chance of the planned set it belongs to."""
    worth: dict[Piece, float] = {}
    for pieces in estimate.plan:
        for piece in pieces:
            worth[piece] = max(worth.get(piece, 0.0), estimate.chance(pieces))
    return worth


def _points(pieces: Hand) -> int:
    return sum(piece.points for piece in pieces)


def _spelled(pieces: Hand) -> tuple[int, ...]:
    return tuple(piece.points for piece in pieces)


def _chance(view: PlayerView, seed: int) -> random.Random:
    """Give each decision its own source of chance, so that no answer depends on how many were given before."""
    return random.Random(f"{seed}/{view.player_id}/{view.round_number}/{view.turn_number}/{view.decision}")
