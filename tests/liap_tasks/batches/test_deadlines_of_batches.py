"""Calls with a deadline in batches: they do not wait too long for others, and too late ones are not run."""

from __future__ import annotations

import threading
import time

import pytest

from liap_tasks import BatchItem, BatchTask, DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from tests.liap_tasks.conftest import DEADLINE, Outcomes

NEVER = RetryPolicy(max_retries=0)
LONG = 60


def test_a_deadline_shortens_the_wait_for_a_full_batch(app: LiapApp) -> None:
    @app.task(shared=False, base=BatchTask, name="tests.batch", batch_size=9, batch_timeout=LONG, ignore_result=False)
    def sizes(items: list[BatchItem]) -> list[int]:
        return [len(items) for _ in items]

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        began = time.monotonic()
        patient = sizes.delay(1)
        urgent = sizes.apply_async((2,), answer_within=1)
        assert [patient.get(timeout=DEADLINE), urgent.get(timeout=DEADLINE)] == [2, 2]
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("answers", [True, False])
def test_a_call_whose_deadline_has_passed_is_not_in_its_batch(app: LiapApp, outcomes: Outcomes, answers: bool) -> None:
    began, go = threading.Event(), threading.Event()
    seen: list[list[int]] = []

    @app.task(
        shared=False,
        base=BatchTask,
        name="tests.batch",
        batch_size=1,
        retry_policy=NEVER,
        ignore_result=False,
        fallback=(lambda number: -number) if answers else None,
    )
    def batch(items: list[BatchItem]) -> None:
        seen.append([item.payload for item in items])
        began.set()
        go.wait(DEADLINE)

    with EmbeddedWorker(app, pool="threads", concurrency=1):
        first = batch.delay(1)
        assert began.wait(DEADLINE)
        late = batch.apply_async((2,), deadline=time.time() + 0.3)
        threading.Timer(0.4, go.set).start()
        assert first.get(timeout=DEADLINE) is None
        if answers:
            assert late.get(timeout=DEADLINE) == -2
            assert dead_letters.count(app) == 0
        else:
            assert outcomes.states(2) == ["SUCCESS", "FAILURE"]
            (letter,) = dead_letters.peek(app)
            assert (letter.reason, letter.args) == (DeadLetterReason.EXPIRED, (2,))
    assert seen == [[1]]
