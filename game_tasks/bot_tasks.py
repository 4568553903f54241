"""The bot's decisions as tasks: the table sends a player's view, a worker answers with a move.

A person waits for these, so they go before everything else, are tried again at once, and have a deadline: when the bot
has not answered by then, its hasty stand-in does.
"""

from __future__ import annotations

from typing import Any

from game_tasks import bot, hasty
from game_tasks.application import app
from game_tasks.moves import ANSWERS, DecisionKind, Declaration, Move, Play, RedealAnswer
from game_tasks.views import PlayerView
from liap_tasks import LiapTask, MessagePriority, RetryPolicy

__all__ = ["answer_redeal", "ask_bot", "choose_declaration", "choose_play", "task_for"]

ANSWER_SECONDS = 10.0

_decision: dict[str, Any] = {
    "priority": MessagePriority.HIGH,
    "retry_policy": RetryPolicy(max_retries=2, initial_delay=0.05, max_delay=0.5),
    "timeout": 5,
    "ignore_result": False,
}


@app.task(name="game_tasks.bot.answer_redeal", fallback=hasty.answer_redeal, **_decision)
def answer_redeal(view: PlayerView, seed: int = 0) -> RedealAnswer:
    """Say whether the bot wants its weak hand dealt again."""
    return bot.answer_redeal(view, seed)


@app.task(name="game_tasks.bot.choose_declaration", fallback=hasty.choose_declaration, **_decision)
def choose_declaration(view: PlayerView, seed: int = 0) -> Declaration:
    """Say how many piles the bot foresees."""
    return bot.choose_declaration(view, seed)


@app.task(name="game_tasks.bot.choose_play", fallback=hasty.choose_play, **_decision)
def choose_play(view: PlayerView, seed: int = 0) -> Play:
    """Say which pieces the bot plays."""
    return bot.choose_play(view, seed)


_TASKS = {
    DecisionKind.REDEAL: answer_redeal,
    DecisionKind.DECLARE: choose_declaration,
    DecisionKind.PLAY: choose_play,
}


def task_for(kind: DecisionKind) -> LiapTask:
    """Return the task that answers questions of a kind."""
    task: LiapTask = _TASKS[kind]
    return task


def ask_bot(view: PlayerView, kind: DecisionKind, seed: int = 0) -> Move:
    """Have a worker answer the question and wait for it; this is what a table takes as ``decide``.

    It is answered within 10 s, by the hasty stand-in if need be. Raises what the task raised.
    """
    return ANSWERS[kind].model_validate(task_for(kind).call_and_wait(view, seed, timeout=ANSWER_SECONDS))
