"""A table: one room, one game, played to its end by asking for one move after the other.

The table knows the whole state; whoever decides sees a view. ``decide`` is any callable, so that the same table plays
with functions of this process and with tasks computed elsewhere. Each thing that happens is told to ``on_event`` in the
order of the room, before the next move is asked for.

Leaves out: waiting for people, deadlines, pauses, and more than one game in a room.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field

from game_tasks.events import GameEvent, GameEventType
from game_tasks.moves import DecisionKind, Move
from game_tasks.rules import apply_move, start_game, winners
from game_tasks.state import GameState, RoundResult, Step
from game_tasks.views import PlayerView, view_of

__all__ = ["PLAYERS", "Decide", "Game", "GameResult", "RoomJournal", "game_steps", "play_game"]

PLAYERS = ("North", "East", "South", "West")

Decide = Callable[[PlayerView, DecisionKind], Move]
"""Answer the question with a legal move; called once for each decision of the game."""

Game = Generator[tuple[PlayerView, DecisionKind], Move, "GameResult"]
"""A game that yields one question after the other, is sent the answers, and returns how it went."""


class GameResult(BaseModel):
    """A finished game.

    scores: final points by player, in seat order. winners: the players with the most points. moves: decisions asked
    for. events: told to ``on_event``, in all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    room_id: str
    game_id: str
    seed: int
    scores: dict[str, int]
    winners: tuple[str, ...]
    rounds: tuple[RoundResult, ...]
    moves: int = Field(ge=0)
    events: int = Field(ge=0)


class RoomJournal:
    """The events of one room in their order, numbered from 1; each is handed on as soon as it is recorded.

    on_event: gets every event; what it raises reaches the caller of ``record``. now, new_id: the clock and the source
    of event ids.
    """

    def __init__(
        self,
        room_id: str,
        game_id: str,
        on_event: Callable[[GameEvent], None],
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        self.room_id = room_id
        self.game_id = game_id
        self.recorded = 0
        self._on_event = on_event
        self._now = now
        self._new_id = new_id

    def record(
        self, event_type: GameEventType, player_id: str | None = None, data: dict[str, Any] | None = None
    ) -> None:
        """Number one event, stamp it, and hand it on."""
        event = GameEvent(
            event_type=event_type,
            room_id=self.room_id,
            game_id=self.game_id,
            player_id=player_id,
            data=data or {},
            sequence=self.recorded + 1,
            event_id=self._new_id(),
            timestamp=self._now(),
        )
        self.recorded += 1
        self._on_event(event)

    def record_step(self, step: Step) -> GameState:
        """Record what happened in a transition, and return its state."""
        for happening in step.happened:
            self.record(happening.event_type, happening.player_id, happening.data)
        return step.state


def _ignore(event: GameEvent) -> None:
    pass


def _utc_now() -> datetime:
    return datetime.now(UTC)


def play_game(
    seed: int,
    decide: Decide,
    *,
    players: Sequence[str] = PLAYERS,
    bots: Collection[str] | None = None,
    room_id: str = "room-1",
    game_id: str | None = None,
    on_event: Callable[[GameEvent], None] = _ignore,
    now: Callable[[], datetime] = _utc_now,
    new_id: Callable[[], UUID] = uuid4,
) -> GameResult:
    """Open a room, play one whole game in it, close it, and return how it went.

    seed: which cards are dealt; with the same answers it is the same game. players: 4 names in seat order. bots: those
    of them that are bots, all when None. game_id: a new one when None.
    Raises IllegalMoveError when ``decide`` breaks the rules, and whatever ``decide`` raises; ``error.occurred`` is
    recorded before.
    """
    game = game_steps(
        seed,
        players=players,
        bots=bots,
        room_id=room_id,
        game_id=game_id,
        on_event=on_event,
        now=now,
        new_id=new_id,
    )
    try:
        question = next(game)
        while True:
            try:
                move = decide(*question)
            except Exception as error:  # noqa: BLE001 - the game records it and raises it again
                question = game.throw(error)
            else:
                question = game.send(move)
    except StopIteration as end:
        result: GameResult = end.value
        return result


def game_steps(
    seed: int,
    *,
    players: Sequence[str] = PLAYERS,
    bots: Collection[str] | None = None,
    room_id: str = "room-1",
    game_id: str | None = None,
    on_event: Callable[[GameEvent], None] = _ignore,
    now: Callable[[], datetime] = _utc_now,
    new_id: Callable[[], UUID] = uuid4,
) -> Game:
    """Play one whole game without waiting for anybody: whoever drives it answers when it can; see :func:`play_game`.

    An error thrown in instead of an answer is recorded as ``error.occurred``, and raised.
    """
    names = tuple(players)
    opening = start_game(names, seed)
    by_bot = set(names if bots is None else bots)
    journal = RoomJournal(room_id, game_id or str(new_id()), on_event, now=now, new_id=new_id)
    journal.record(GameEventType.ROOM_CREATED, data={"seats": len(names)})
    for name in names:
        bot = name in by_bot
        journal.record(GameEventType.ROOM_JOINED, name, {"bot": bot})
        journal.record(GameEventType.BOT_ACTIVATED if bot else GameEventType.PLAYER_CONNECTED, name)

    state = journal.record_step(opening)
    moves = 0
    while state.pending is not None:
        state = journal.record_step((yield from _ask(state, state.pending, journal)))
        moves += 1

    for name in names:
        if name in by_bot:
            journal.record(GameEventType.BOT_DEACTIVATED, name)
        journal.record(GameEventType.ROOM_LEFT, name)
    journal.record(GameEventType.ROOM_CLOSED)
    return GameResult(
        room_id=room_id,
        game_id=journal.game_id,
        seed=seed,
        scores=state.scores,
        winners=winners(state),
        rounds=state.history,
        moves=moves,
        events=journal.recorded,
    )


def _ask(
    state: GameState, pending: DecisionKind, journal: RoomJournal
) -> Generator[tuple[PlayerView, DecisionKind], Move, Step]:
    player_id = state.id_of(state.to_move)
    try:
        move = yield view_of(state, player_id), pending
        return apply_move(state, player_id, move)
    except Exception as error:
        journal.record(
            GameEventType.ERROR_OCCURRED,
            player_id,
            {"question": pending.value, "error": type(error).__name__, "message": str(error)},
        )
        raise
