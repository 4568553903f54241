"""The registry of an app's tasks: one thread may go over it while another adds tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from liap_tasks import LiapApp


@pytest.mark.parametrize("over", [iter, lambda r: r.keys(), lambda r: r.values(), lambda r: r.items()])
def test_a_task_may_be_added_while_the_registry_is_gone_over(
    app: LiapApp, over: Callable[[object], Iterable[object]]
) -> None:
    def nothing() -> None: ...

    before = len(app.tasks)
    seen = 0
    for number, _ in enumerate(over(app.tasks)):
        app.task(shared=False, name=f"added.{number}")(nothing)
        seen += 1
    assert seen == before
    assert len(app.tasks) == len(app.tasks.items()) == 2 * before


def test_a_task_may_be_taken_away_while_the_registry_is_gone_over(app: LiapApp) -> None:
    names = list(app.tasks)
    for name, task in app.tasks.items():
        assert task.name == name
        app.tasks.pop(names.pop(), None)
    assert not app.tasks
