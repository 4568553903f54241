"""Games for the tests: short names of pieces, a player who does anything legal, and a walk through a whole game."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import combinations

from game_tasks.moves import DecisionKind, Declaration, Move, Play, RedealAnswer
from game_tasks.pieces import Colour, Hand, Kind, Piece
from game_tasks.rules import apply_move, start_game
from game_tasks.sets import valid_sets
from game_tasks.state import GameState, Step
from game_tasks.table import Decide
from game_tasks.views import PlayerView, view_of

PLAYERS = ("Ann", "Ben", "Cho", "Dee")

_KINDS = {
    "G": Kind.GENERAL,
    "A": Kind.ADVISOR,
    "E": Kind.ELEPHANT,
    "C": Kind.CHARIOT,
    "H": Kind.HORSE,
    "K": Kind.CANNON,
    "S": Kind.SOLDIER,
}
_COLOURS = {"r": Colour.RED, "b": Colour.BLACK}


def pieces(short: str) -> Hand:
    """Read pieces from a word each: ``"Gr Ab"`` is the red GENERAL and a black ADVISOR, K a CANNON, S a SOLDIER."""
    return tuple(Piece.of(_KINDS[word[0]], _COLOURS[word[1]]) for word in short.split())


def anything_legal(rng: random.Random) -> Decide:
    """Make a player who takes any legal answer, each as likely as the other."""

    def decide(view: PlayerView, kind: DecisionKind) -> Move:
        if kind is DecisionKind.REDEAL:
            return RedealAnswer(redeal=rng.random() < 0.5)
        if kind is DecisionKind.DECLARE:
            return Declaration(piles=rng.choice(view.allowed_declarations))
        if view.required_pieces is None:
            return Play(pieces=rng.choice(valid_sets(view.hand)))
        return Play(pieces=rng.choice(list(combinations(view.hand, view.required_pieces))))

    return decide


def as_few_piles_as_allowed(rng: random.Random) -> Decide:
    """Make a player who always makes the lowest declaration, and otherwise does anything legal."""
    legal = anything_legal(rng)

    def decide(view: PlayerView, kind: DecisionKind) -> Move:
        if kind is DecisionKind.DECLARE:
            return Declaration(piles=min(view.allowed_declarations))
        return legal(view, kind)

    return decide


def walk(seed: int, decide: Decide | None = None) -> Iterator[tuple[GameState, Move | None, Step]]:
    """Play a game, yielding each state before the move, the move (None for the start), and the step it led to."""
    decide = decide or anything_legal(random.Random(seed))
    step = start_game(PLAYERS, seed)
    yield step.state, None, step
    while step.state.pending is not None:
        before = step.state
        player_id = before.id_of(before.to_move)
        move = decide(view_of(before, player_id), before.pending)
        step = apply_move(before, player_id, move)
        yield before, move, step


def first_state(seed: int, wanted: Callable[[GameState], bool]) -> GameState:
    """Walk one game to the first state that is wanted."""
    return next(step.state for _, _, step in walk(seed) if wanted(step.state))
