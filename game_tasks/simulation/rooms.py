"""Playing many rooms at once from one thread: whichever room has its answer goes on.

A room has one question open at a time; a bot's answer is a Celery task, its future says when it is there. No more
than ``window`` rooms are open at once, and no room goes on while too many events are on their way: so the queues stay
short however many rooms there are.
"""

from __future__ import annotations

import queue
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from game_tasks.bot_tasks import task_for
from game_tasks.events import GameEvent
from game_tasks.moves import ANSWERS, DecisionKind
from game_tasks.table import Game, GameResult, game_steps
from game_tasks.views import PlayerView
from liap_tasks.calls import AwaitableResult

__all__ = ["Rooms", "StalledError"]

ANSWER_SECONDS = 60.0
STALL_SECONDS = 120.0


class StalledError(Exception):
    """Nothing has happened for too long."""


class Room:
    """One game in progress."""

    def __init__(self, number: int, seed: int, bots: int, tell: Callable[[GameEvent], None]) -> None:
        self._chance = random.Random(seed)
        self.seed = seed
        self.name = f"room-{number}"
        self.game: Game = game_steps(
            seed,
            players=tuple(f"bot-{seat}" for seat in range(1, bots + 1)),
            room_id=self.name,
            on_event=tell,
            now=lambda: datetime.now(UTC),
            new_id=self.new_id,
        )
        self.kind: DecisionKind | None = None
        self.result: AwaitableResult | None = None

    def new_id(self) -> UUID:
        """Return the next id of an event or a move: the same for the same seed.

        It also spares the operating system's source of chance, at which this thread would lose the interpreter to the
        worker's.
        """
        return UUID(int=self._chance.getrandbits(128), version=4)


class Rooms:
    """Plays ``count`` rooms. seed: of the first; each has another.

    window: rooms open at once. before_move: called before a room goes on; it may wait. tell: gets every event.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int,
        bots: int,
        window: int,
        before_move: Callable[[], None],
        tell: Callable[[GameEvent], None],
    ) -> None:
        self._numbers = iter(range(1, count + 1))
        self._seed = seed
        self._bots = bots
        self._window = window
        self._before_move = before_move
        self._tell = tell
        self._answered: queue.SimpleQueue[Room] = queue.SimpleQueue()
        self.open = 0

    def play(self) -> Iterator[GameResult]:
        """Play all rooms to the end; yields the result of each when it is there.

        Raises what a bot's task raised; StalledError when no answer came for two minutes.
        """
        for _ in range(self._window):
            yield from self._open_next()
        while self.open:
            try:
                room = self._answered.get(timeout=STALL_SECONDS)
            except queue.Empty:
                raise StalledError(f"no answer for {STALL_SECONDS:g} s, {self.open} rooms are open") from None
            if room.result is None or room.kind is None:
                raise AssertionError("an answer without a question")
            answer = ANSWERS[room.kind].model_validate(room.result.get(timeout=0))
            self._before_move()
            ended = self._go_on(room, lambda room=room, answer=answer: room.game.send(answer))  # type: ignore[misc]
            if ended is not None:
                yield ended
                yield from self._open_next()

    def _open_next(self) -> Iterator[GameResult]:
        number = next(self._numbers, None)
        if number is None:
            return
        self.open += 1
        self._before_move()
        room = Room(number, self._seed + number - 1, self._bots, self._tell)
        ended = self._go_on(room, lambda: next(room.game))
        if ended is not None:
            yield ended

    def _go_on(self, room: Room, step: Callable[[], tuple[PlayerView, DecisionKind]]) -> GameResult | None:
        """Let a room go on to its next question and ask it; return its result if there is none."""
        try:
            view, room.kind = step()
        except StopIteration as end:
            self.open -= 1
            result: GameResult = end.value
            return result
        # As JSON: of a model Celery makes another one first, to see that it is equal.
        room.result = task_for(room.kind).submit(
            (view.model_dump(mode="json"), room.seed), task_id=str(room.new_id()), answer_within=ANSWER_SECONDS
        )

        def ready(_: Future[Any]) -> None:
            self._answered.put(room)

        room.result.answered.add_done_callback(ready)
        return None
