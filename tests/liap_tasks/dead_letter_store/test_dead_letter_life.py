"""A dead letter's whole way: a worker lets it die and records it, somebody mends it and sends it back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from liap_tasks import EmbeddedWorker, LiapApp, RetryPolicy
from liap_tasks.dead_letter_store import Letter, LetterFilter
from liap_tasks.dead_letter_store.operations import CallChange, StopRule, edit, replay
from tests.liap_tasks.conftest import DEADLINE, Outcomes

NEVER = RetryPolicy(max_retries=0)


@pytest.fixture
def app(new_app: Callable[..., LiapApp], tmp_path: Path) -> Iterator[LiapApp]:
    """An app that stores its dead letters and retries none by itself."""
    app = new_app(dlq_store_url=f"sqlite:///{tmp_path}/letters.sqlite3", dlq_max_retries=0)
    yield app
    app.dead_letter_store.close()


class CardTableError(Exception):
    pass


def breaking(app: LiapApp) -> list[tuple[Any, ...]]:
    """Give the app a task that fails below a stake of 0; return what it settles."""
    settled: list[tuple[Any, ...]] = []

    @app.task(shared=False, bind=True, name="tests.settle", retry_policy=NEVER)
    def settle(self: Any, game: str, stake: int) -> None:
        if stake < 0:
            raise CardTableError(f"{game}: no such stake")
        settled.append((game, stake, self.attempt))

    return settled


def stored(app: LiapApp, count: int, where: LetterFilter) -> list[Letter]:
    """Return the letters as soon as there are so many."""
    waiting = threading.Event()
    for _ in range(round(DEADLINE / 0.01)):
        letters = app.dead_letter_store.list(where, limit=1000)
        if len(letters) >= count:
            return letters
        waiting.wait(0.01)
    raise AssertionError(f"{len(letters)} letters, not {count}")


def test_a_letter_dies_again_is_mended_and_succeeds(app: LiapApp, outcomes: Outcomes) -> None:
    settled = breaking(app)
    dead = LetterFilter(states=("dead",))
    with EmbeddedWorker(app):
        app.send_task("tests.settle", ("g1", -1))
        (first,) = stored(app, 1, dead)
        assert outcomes.next().state == "FAILURE"

        assert replay(app, LetterFilter(ids=(first.id,))).replayed == 1
        assert outcomes.next().state == "FAILURE"
        (second,) = stored(app, 1, dead)
        assert second.id != first.id
        assert (second.replayed_from, second.replays) == (first.id, 1)
        assert [attempt["number"] for attempt in second.attempts] == [1]
        assert app.dead_letter_store.get(first.id).replayed_as == second.id

        edit(app, second.id, CallChange(set_args={1: 5}), who="somebody@here")
        assert replay(app, LetterFilter(ids=(second.id,))).replayed == 1
        assert outcomes.next().state == "SUCCESS"

    assert settled == [("g1", 5, 1)]
    assert app.dead_letter_store.count(dead) == 0
    assert [entry.who for entry in app.dead_letter_store.audit(second.id)] == ["somebody@here"]


def test_a_replay_waits_for_those_that_come_back_and_says_so(app: LiapApp, outcomes: Outcomes) -> None:
    breaking(app)
    with EmbeddedWorker(app):
        for number in range(25):
            app.send_task("tests.settle", (f"g{number}", -1))
        stored(app, 25, LetterFilter(states=("dead",)))
        report = replay(app, rate=0, wait=DEADLINE, stop_rule=StopRule(percent=40, sample=20))
    assert report.replayed == 25
    assert report.stopped is not None
    assert "CardTableError came back for" in report.stopped
    assert report.came_back["CardTableError"] > 10


def test_a_broken_task_stops_a_replay_while_it_runs(app: LiapApp, outcomes: Outcomes) -> None:
    breaking(app)
    with EmbeddedWorker(app):
        for number in range(250):
            app.send_task("tests.settle", (f"g{number}", -1))
        stored(app, 250, LetterFilter(states=("dead",)))
        report = replay(app, rate=100, stop_rule=StopRule(percent=20))
    assert 20 <= report.replayed < 250
    assert report.stopped is not None
    assert app.dead_letter_store.count(LetterFilter(states=("replayed",))) == report.replayed
