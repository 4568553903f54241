"""The state of one game: values only, changed by nobody.

``game_tasks.rules`` makes a new state out of an old one. The seed is part of the state and each deal draws from its own
``random.Random``, so a state alone says how the game goes on, also when it was stored and read back in between.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from game_tasks.events import GameEventType
from game_tasks.moves import DecisionKind
from game_tasks.pieces import SEATS, Hand, Piece, deal

__all__ = ["GameState", "Happening", "PlayerState", "RoundResult", "Step", "deal_hands", "seats_from"]


@dataclass(frozen=True, kw_only=True)
class PlayerState:
    """One seat.

    declared: piles declared in this round, None before that. taken: piles taken in this round. score: points of the
    finished rounds. zeros_in_a_row: finished rounds up to now with a declaration of 0, without a break.
    """

    player_id: str
    hand: Hand = ()
    declared: int | None = None
    taken: int = 0
    score: int = 0
    zeros_in_a_row: int = 0


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """A finished round; the tuples are by seat. points: with the multiplier already in them."""

    round_number: int
    starter: str
    multiplier: int
    declared: tuple[int, ...]
    taken: tuple[int, ...]
    points: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GameState:
    """A game between two moves.

    pending: the question the game waits for; None when it is over. to_move: the seat it is put to.
    deals: deals made in the whole game; the next deal draws from it. multiplier: 1, one more per redeal of the round.
    weak_seats: seats still to be asked about a redeal, ``to_move`` first.
    starter: the seat that declares first and leads the first turn. leader: the seat that leads this turn.
    plays: of this turn, the leader's first. played: all pieces of this round's finished turns.
    """

    seed: int
    players: tuple[PlayerState, ...]
    pending: DecisionKind | None = None
    to_move: int = 0
    round_number: int = 1
    deals: int = 0
    multiplier: int = 1
    weak_seats: tuple[int, ...] = ()
    starter: int = 0
    turn_number: int = 0
    leader: int = 0
    plays: tuple[Hand, ...] = ()
    played: tuple[Piece, ...] = ()
    history: tuple[RoundResult, ...] = ()

    @property
    def scores(self) -> dict[str, int]:
        """Points of the finished rounds by player, in seat order."""
        return {player.player_id: player.score for player in self.players}

    @property
    def declared_in_order(self) -> tuple[int, ...]:
        """This round's declarations up to now, the starter's first."""
        by_order = (self.players[seat].declared for seat in seats_from(self.starter))
        return tuple(piles for piles in by_order if piles is not None)

    def id_of(self, seat: int) -> str:
        """Return the player of a seat."""
        return self.players[seat].player_id

    def seat_of(self, player_id: str) -> int:
        """Return the seat of a player; raises ValueError for somebody who does not play."""
        for seat, player in enumerate(self.players):
            if player.player_id == player_id:
                return seat
        raise ValueError(f"{player_id!r} does not play in this game; its players: {', '.join(self.scores)}")


@dataclass(frozen=True, kw_only=True)
class Happening:
    """What happened, without the room it happened in; ``data`` holds JSON values that every player may know."""

    event_type: GameEventType
    player_id: str | None = None
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The outcome of a transition: the new state, and what happened on the way, in order."""

    state: GameState
    happened: tuple[Happening, ...]


def seats_from(seat: int) -> tuple[int, ...]:
    """List all seats in playing order, beginning with this one."""
    return tuple((seat + offset) % SEATS for offset in range(SEATS))


def deal_hands(state: GameState) -> tuple[Hand, ...]:
    """Deal the hands of the next deal of this game: always the same for the same seed and number of deals."""
    return deal(random.Random(f"liap-tui/{state.seed}/{state.deals}"))
