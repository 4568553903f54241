"""The time limits of a task: seconds or a timedelta; another value is refused by name when the task joins its app."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from liap_tasks import LiapApp, LiapTask


def task_with(app: LiapApp, **options: Any) -> LiapTask:
    @app.task(name="tests.limited", shared=False, **options)  # else other tests' apps would be given it, too
    def limited() -> None: ...

    task: LiapTask = app.tasks["tests.limited"]
    return task


@pytest.mark.parametrize("option", ["timeout", "grace"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e300, "5", True, timedelta(days=-1)])
def test_a_limit_that_is_no_time_is_refused_by_name(app: LiapApp, option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{option} of tests\.limited must be "):
        task_with(app, **{option: value})


def test_limits_may_be_timedeltas(app: LiapApp) -> None:
    task = task_with(app, timeout=timedelta(minutes=1), grace=timedelta(seconds=0.5))
    assert (task.timeout, task.grace) == (60.0, 0.5)
    assert (task.soft_time_limit, task.time_limit) == (60.0, 60.5)


def test_no_timeout_is_no_limit(app: LiapApp) -> None:
    task = task_with(app, timeout=0)
    assert (task.soft_time_limit, task.time_limit) == (None, None)
