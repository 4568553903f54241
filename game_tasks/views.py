"""What one player may know of a game: the argument of every decision.

A view is complete, so that whoever decides needs nothing else: a bot in this process, a task in another one, or a
person's screen. It is JSON, and holds nobody's hand but its owner's.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from game_tasks.moves import DecisionKind
from game_tasks.pieces import SEATS, Hand
from game_tasks.scoring import MAX_ROUNDS, allowed_declarations
from game_tasks.state import GameState

__all__ = ["PlayerView", "SeatView", "TablePlay", "view_of"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SeatView(_View):
    """What everybody knows of one player.

    declared: piles, None before the player has declared. taken: piles of this round. pieces_left: in the hidden hand.
    """

    player_id: str
    score: int
    declared: int | None = None
    taken: int = Field(ge=0)
    pieces_left: int = Field(ge=0)


class TablePlay(_View):
    """One play of the present turn, face up."""

    player_id: str
    pieces: Hand


class PlayerView(_View):
    """One game as its player ``player_id`` sees it.

    decision: the question put to this player now; None while others decide or when the game is over.
    seats: all 4 players in seat order. starter: declares first and leads the first turn. leader: leads this turn.
    position: 0 to 3, this player's place in the order of declaring, or of playing once the declarations are made.
    table: the plays of this turn, the leader's first. played: all pieces of this round's earlier turns.
    allowed_declarations: the legal answers while ``decision`` is declare, else empty.
    required_pieces: how many pieces a follower must play; None for the leader, who must play a valid set.
    zeros_in_a_row: this player's declarations of 0 up to the last round, without a break.
    """

    player_id: str
    decision: DecisionKind | None
    round_number: int = Field(ge=1, le=MAX_ROUNDS)
    turn_number: int = Field(ge=0)
    multiplier: int = Field(ge=1)
    starter: str
    leader: str
    position: int = Field(ge=0, lt=SEATS)
    hand: Hand
    seats: tuple[SeatView, ...] = Field(min_length=SEATS, max_length=SEATS)
    table: tuple[TablePlay, ...] = ()
    played: Hand = ()
    allowed_declarations: tuple[int, ...] = ()
    required_pieces: int | None = None
    zeros_in_a_row: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _refuse_what_contradicts_itself(self) -> Self:
        ids = [seat.player_id for seat in self.seats]
        if self.player_id not in ids:
            raise ValueError(f"{self.player_id!r} sits at no seat; the seats: {', '.join(ids)}")
        if self.own_seat.pieces_left != len(self.hand):
            raise ValueError(f"a hand of {len(self.hand)}, but pieces_left={self.own_seat.pieces_left}")
        if self.decision is DecisionKind.DECLARE and not self.allowed_declarations:
            raise ValueError("asked to declare, but allowed_declarations is empty")
        return self

    @property
    def own_seat(self) -> SeatView:
        """This player's public side."""
        return next(seat for seat in self.seats if seat.player_id == self.player_id)

    @property
    def others(self) -> tuple[SeatView, ...]:
        """The three opponents, in seat order."""
        return tuple(seat for seat in self.seats if seat.player_id != self.player_id)


def view_of(state: GameState, player_id: str) -> PlayerView:
    """Show the game to one of its players; raises ValueError for somebody who does not play."""
    own = state.seat_of(player_id)
    player = state.players[own]
    decision = state.pending if own == state.to_move else None
    playing = state.pending is DecisionKind.PLAY
    first = state.leader if playing else state.starter
    declarations: tuple[int, ...] = ()
    if decision is DecisionKind.DECLARE:
        declarations = allowed_declarations(state.declared_in_order, player.zeros_in_a_row)
    return PlayerView(
        player_id=player_id,
        decision=decision,
        round_number=state.round_number,
        turn_number=state.turn_number,
        multiplier=state.multiplier,
        starter=state.id_of(state.starter),
        leader=state.id_of(state.leader),
        position=(own - first) % SEATS,
        hand=player.hand,
        seats=tuple(
            SeatView(
                player_id=each.player_id,
                score=each.score,
                declared=each.declared,
                taken=each.taken,
                pieces_left=len(each.hand),
            )
            for each in state.players
        ),
        table=tuple(
            TablePlay(player_id=state.id_of((state.leader + index) % SEATS), pieces=pieces)
            for index, pieces in enumerate(state.plays)
        ),
        played=state.played,
        allowed_declarations=declarations,
        required_pieces=len(state.plays[0]) if state.plays else None,
        zeros_in_a_row=player.zeros_in_a_row,
    )
