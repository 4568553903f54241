"""The three questions the table asks a player, and the values that answer them.

The answers are pydantic models, so that they can be the result of a task in another process. Their types say what can
be said at all; whether an answer is legal now is decided by ``game_tasks.rules``.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from game_tasks.pieces import Hand
from game_tasks.scoring import PILES
from game_tasks.sets import MAX_SET_SIZE

__all__ = ["ANSWERS", "Declaration", "DecisionKind", "IllegalMoveError", "Move", "Play", "RedealAnswer"]


class DecisionKind(StrEnum):
    """What a player is asked."""

    REDEAL = "redeal"
    """The hand is weak: deal again? Answered by RedealAnswer."""
    DECLARE = "declare"
    """How many piles will it be? Answered by Declaration."""
    PLAY = "play"
    """Which pieces? Answered by Play."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RedealAnswer(_Answer):
    """Ask for a redeal, or keep the weak hand."""

    redeal: bool


class Declaration(_Answer):
    """Foresee this number of piles, 0 to 8."""

    piles: int = Field(ge=0, le=PILES)


class Play(_Answer):
    """Play these 1 to 6 pieces from the hand."""

    pieces: Hand = Field(min_length=1, max_length=MAX_SET_SIZE)


Move = RedealAnswer | Declaration | Play

ANSWERS: dict[DecisionKind, type[RedealAnswer] | type[Declaration] | type[Play]] = {
    DecisionKind.REDEAL: RedealAnswer,
    DecisionKind.DECLARE: Declaration,
    DecisionKind.PLAY: Play,
}
"""The model that answers each question; its ``model_validate`` reads an answer that came as JSON."""


class IllegalMoveError(ValueError):
    """A move the rules do not allow now; the game is unchanged.

    player_id: who moved. move: the move. allowed: what would have been legal, in words.
    """

    def __init__(self, player_id: str, move: Move, allowed: str) -> None:
        self.player_id = player_id
        self.move = move
        self.allowed = allowed
        super().__init__(player_id, move, allowed)

    def __str__(self) -> str:
        return f"{self.player_id} may not answer {self.move!r}: {self.allowed}"
