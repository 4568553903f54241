"""The turn timer, in virtual time: a person who answers in time is heard, for one who does not the bot plays."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from game_tasks import bot, turn_timer
from game_tasks.moves import DecisionKind, Move
from game_tasks.table import play_game
from game_tasks.turn_timer import TurnTimer, decide_in_time
from game_tasks.views import PlayerView
from liap_tasks import EmbeddedWorker, LiapApp, schedule
from liap_tasks.errors import ScheduleError
from liap_tasks.testing import WorkerClock
from tests.game_tasks.test_game_tasks import some_views
from tests.game_tasks.test_hasty import hasty_answer


@pytest.fixture
def question() -> tuple[PlayerView, DecisionKind]:
    return next(some_views(1))


def test_an_answer_in_time_stops_the_clock(
    game_app: LiapApp,
    virtual_clock: WorkerClock,
    question: tuple[PlayerView, DecisionKind],
    liap_worker: EmbeddedWorker,
) -> None:
    timer = TurnTimer(*question, seconds=30)
    assert [call.id for call in schedule.scheduled(game_app)] == [timer.id]
    virtual_clock.advance(29)
    assert timer.stop()
    virtual_clock.advance(3600)
    assert timer.ended.result(timeout=10)["status"] == "REVOKED"
    assert schedule.scheduled(game_app) == []


def test_when_time_is_up_the_bot_plays_and_the_player_is_too_late(
    virtual_clock: WorkerClock, question: tuple[PlayerView, DecisionKind], liap_worker: EmbeddedWorker
) -> None:
    view, kind = question
    timer = TurnTimer(view, kind, seconds=30, seed=5)
    virtual_clock.advance(30)
    assert timer.move(timeout=10) == bot.decide(view, kind, seed=5)
    assert not timer.stop()


def test_a_table_hears_who_is_quick_and_lets_the_bot_play_for_who_is_not(
    game_app: LiapApp, virtual_clock: WorkerClock, liap_worker: EmbeddedWorker
) -> None:
    asked: list[str] = []

    def ask(view: PlayerView, kind: DecisionKind) -> Future[Move]:
        answer: Future[Move] = Future()
        asked.append(view.player_id)
        if len(asked) % 7:
            answer.set_result(bot.decide(view, kind, seed=1))
        else:  # this one has fallen asleep
            threading.Thread(target=virtual_clock.advance, args=(20,)).start()
        return answer

    result = play_game(3, decide_in_time(ask, seconds=20, seed=1))
    assert result.moves == len(asked)
    assert result.scores == play_game(3, lambda view, kind: bot.decide(view, kind, seed=1)).scores
    assert schedule.scheduled(game_app, task="game_tasks.bot.choose_play") == []


def test_without_a_worker_the_hasty_stand_in_plays_in_the_end(
    game_app: LiapApp,
    virtual_clock: WorkerClock,
    question: tuple[PlayerView, DecisionKind],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turn_timer, "ANSWER_SECONDS", 0.02)
    asleep: Future[Move] = Future()
    assert decide_in_time(lambda *_: asleep, seconds=0.01)(*question) == hasty_answer(*question)
    assert asleep.cancelled()
    assert schedule.scheduled(game_app) == []


def test_a_player_is_heard_where_no_worker_can_be_asked_for_the_timer(
    game_app: LiapApp, question: tuple[PlayerView, DecisionKind], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody_answers(app: LiapApp, task_id: str) -> bool:
        raise ScheduleError("no worker has answered")

    monkeypatch.setattr(schedule, "cancel", nobody_answers)
    view, kind = question
    answer: Future[Move] = Future()
    answer.set_result(bot.decide(view, kind, seed=9))
    assert decide_in_time(lambda *_: answer, seconds=20)(view, kind) is answer.result()


def test_a_question_that_cannot_be_put_to_a_person_leaves_no_timer(
    game_app: LiapApp, question: tuple[PlayerView, DecisionKind], virtual_clock: WorkerClock
) -> None:
    def ask(view: PlayerView, kind: DecisionKind) -> Future[Move]:
        raise ConnectionResetError(view.player_id)

    with pytest.raises(ConnectionResetError):
        decide_in_time(ask, seconds=20)(*question)
    assert schedule.scheduled(game_app) == []


def test_a_person_s_refusal_to_answer_is_an_error_of_the_table(
    virtual_clock: WorkerClock, liap_worker: EmbeddedWorker
) -> None:
    def ask(view: PlayerView, kind: DecisionKind) -> Future[Any]:
        answer: Future[Any] = Future()
        answer.set_exception(ConnectionResetError(view.player_id))
        return answer

    with pytest.raises(ConnectionResetError):
        play_game(3, decide_in_time(ask, seconds=20))
