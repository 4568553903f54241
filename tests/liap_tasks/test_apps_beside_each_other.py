"""Several Celery apps in one process: which know our tasks, and that none of them complains of their options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, _state
from celery.exceptions import DuplicateTaskNameWarning

from liap_tasks import LiapApp, LiapTask, MessagePriority


@pytest.fixture(autouse=True)
def _finalizers() -> Iterator[None]:
    """Let no app of a later test get the shared tasks of this one."""
    before = set(_state._on_app_finalizers)  # type: ignore[attr-defined]  # not in the stubs
    yield
    _state._on_app_finalizers.intersection_update(before)  # type: ignore[attr-defined]


def test_a_task_joins_our_other_apps_and_no_plain_one(new_app: Callable[..., LiapApp]) -> None:
    app, other, plain = new_app(), new_app(), Celery("plain", set_as_current=False)

    @app.task(name="tests.urgent", priority=MessagePriority.HIGH)
    def urgent() -> None: ...

    @app.task(name="tests.own", shared=False)
    def own() -> None: ...

    assert {"tests.urgent", "tests.own"} <= set(app.tasks)
    assert other.tasks["tests.urgent"].priority == MessagePriority.HIGH
    assert other.tasks["tests.urgent"].app is other
    assert "tests.own" not in other.tasks
    assert "tests.urgent" not in plain.tasks  # which would warn of its priority, and know nothing of its policies


def test_an_app_s_own_task_wins_over_one_of_its_name_that_another_app_shares(new_app: Callable[..., LiapApp]) -> None:
    def make(app: LiapApp, says: str) -> Any:
        @app.task(name="tests.who")
        def who() -> str:
            return says

        return who

    first, second, late = new_app(), new_app(), new_app()
    make(first, "first")
    make(second, "second")
    assert (first.tasks["tests.who"](), second.tasks["tests.who"]()) == ("first", "second")
    with pytest.warns(DuplicateTaskNameWarning):  # it has none, and cannot tell which of the two is meant
        late.finalize()
    assert make(late, "late")() == late.tasks["tests.who"]() == "late"


def test_a_task_is_made_with_and_without_parentheses(app: LiapApp) -> None:
    def settle() -> str:
        return "settled"

    for made in (app.task(settle), app.task()(settle), app.task(name="tests.settle", shared=False)(settle)):
        assert made() == "settled"
    with pytest.raises(TypeError):
        app.task(settle, settle)  # type: ignore[call-overload]  # that is the point


def test_what_annotations_say_of_a_priority_holds(app: LiapApp) -> None:
    app.conf.task_annotations = {"tests.annotated": {"priority": 2}}

    @app.task(name="tests.annotated", priority=MessagePriority.HIGH, shared=False)
    def annotated() -> None: ...

    assert annotated.priority == 2


def test_a_priority_of_a_class_raises_no_warning(app: LiapApp) -> None:
    class Urgent(LiapTask):
        name = "tests.of_a_class"
        priority = MessagePriority.CRITICAL

        def run(self, *_: Any, **__: Any) -> None: ...

    task = app.register_task(Urgent())
    app.finalize()
    assert task.priority == MessagePriority.CRITICAL


BASE_CLASS_FIRST = """
from celery import Celery
from liap_tasks import LiapTask, MessagePriority, app

@app.task(priority=MessagePriority.HIGH)
def urgent(): ...

assert LiapTask.app is not None  # binds the base class itself, before any task
assert urgent.priority == MessagePriority.HIGH
app.finalize()
Celery("plain").finalize()
"""


def test_no_order_of_binding_raises_a_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BASE_CLASS_FIRST], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
