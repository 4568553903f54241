"""A player who does not answer in time: the bot does.

The timer is a delayed call of the bot's task, held by the broker, so it costs neither a thread nor a place in a worker.
An answer in time cancels it. The broker decides a tie: either the call is cancelled and the player's answer counts, or
it has gone out and the bot's answer counts; never both. Should no worker be there to play, the hasty stand-in does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from celery.exceptions import TaskRevokedError

from game_tasks.application import app
from game_tasks.bot_tasks import ANSWER_SECONDS, task_for
from game_tasks.moves import ANSWERS, DecisionKind, Move
from game_tasks.table import Decide
from game_tasks.views import PlayerView
from liap_tasks import AnswerTimeoutError, schedule
from liap_tasks.calls import PUBLISH_SECONDS, publish_now
from liap_tasks.errors import ScheduleError

__all__ = ["AskPlayer", "TurnTimer", "decide_in_time"]

AskPlayer = Callable[[PlayerView, DecisionKind], Future[Move]]
"""Put a question to a person, and return the future of the answer."""


class TurnTimer:
    """The clock of one question: when ``seconds`` (> 0) have passed without :meth:`stop` the bot is asked."""

    def __init__(self, view: PlayerView, kind: DecisionKind, seconds: float, seed: int = 0) -> None:
        self._view, self._kind, self._seed = view, kind, seed
        task = task_for(kind)
        self._stand_in: Any = task.fallback
        self._called = publish_now(
            task, (view, seed), {}, timeout=PUBLISH_SECONDS, countdown=seconds, ignore_result=False
        )
        self.id = self._called.id

    @property
    def ended(self) -> Future[Any]:
        """Done when the bot has answered, or some time after the clock was stopped."""
        return self._called.answered

    def stop(self) -> bool:
        """Stop the clock: True if it was in time, False if the bot is asked already, whose answer then counts.

        Over RabbitMQ this takes a second: the workers are asked for the call.
        """
        try:
            return schedule.cancel(app, self.id)
        except ScheduleError:  # the workers hold the calls here, and none is there
            return not self.ended.done()

    def move(self, timeout: float = ANSWER_SECONDS) -> Move:
        """Return the bot's move; the hasty one after ``timeout`` seconds, or when the clock was stopped."""
        try:
            answer = self._called.get(timeout=timeout)
        except (AnswerTimeoutError, TaskRevokedError):
            answer = self._stand_in(self._view, self._seed)
        return ANSWERS[self._kind].model_validate(answer)


def decide_in_time(ask: AskPlayer, seconds: float, seed: int = 0) -> Decide:
    """Make a table's ``decide`` of a person who has ``seconds`` for each answer, and of the bot that steps in.

    What ``ask`` raises is raised to the table, and the clock is stopped.
    """

    def decide(view: PlayerView, kind: DecisionKind) -> Move:
        timer = TurnTimer(view, kind, seconds, seed)
        try:
            answer = ask(view, kind)
        except BaseException:
            timer.stop()
            raise
        wait([answer, timer.ended], timeout=seconds + ANSWER_SECONDS, return_when=FIRST_COMPLETED)
        if answer.done() and timer.stop():
            return answer.result()
        answer.cancel()
        return timer.move() if timer.ended.done() or not timer.stop() else timer.move(timeout=0)

    return decide
