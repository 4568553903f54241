"""Moves in no time: legal, and no more. They stand in for the bot when its answer would come too late.

A weak hand is kept, a small number of piles declared, the cheapest pieces played.
"""

from __future__ import annotations

from game_tasks.moves import Declaration, Play, RedealAnswer
from game_tasks.pieces import ordered
from game_tasks.views import PlayerView

__all__ = ["answer_redeal", "choose_declaration", "choose_play"]


def answer_redeal(view: PlayerView, seed: int = 0) -> RedealAnswer:
    """Keep the hand."""
    return RedealAnswer(redeal=False)


def choose_declaration(view: PlayerView, seed: int = 0) -> Declaration:
    """Declare the allowed number of piles that is nearest to one."""
    return Declaration(piles=min(view.allowed_declarations, key=lambda piles: abs(piles - 1)))


def choose_play(view: PlayerView, seed: int = 0) -> Play:
    """Play the cheapest pieces: one to lead, as many as are required to follow."""
    cheapest = sorted(view.hand, key=lambda piece: piece.points)
    return Play(pieces=ordered(cheapest[: view.required_pieces or 1]))
