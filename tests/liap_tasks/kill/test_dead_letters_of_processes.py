"""Dead letters of worker processes on RabbitMQ, read through the public API in another process."""

from __future__ import annotations

import pytest

from liap_tasks import DeadLetterReason, LiapApp, dead_letters
from tests.liap_tasks.kill import tasks
from tests.liap_tasks.kill.conftest import Runs, StartWorker

DEADLINE = 60
LIMIT, GRACE = 0.3, 5.0


@pytest.fixture
def default_worker_env(default_worker_env: dict[str, str]) -> dict[str, str]:
    return {**default_worker_env, "CELERY_CUSTOM_WORKER_POOL": "liap_tasks.pools.asyncio:TaskPool"}


@pytest.mark.rabbitmq
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "custom"])
def test_failures_and_overruns_are_dead_letters(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs, pool: str
) -> None:
    worker = start_worker("-P", pool, "-c", "2", wait=False)
    failed = tasks.fails.delay(str(runs.folder), "fails")
    overran = tasks.overruns.delay(str(runs.folder), "overruns")
    awaited = tasks.overruns_in_a_coroutine.delay(str(runs.folder), "awaits")
    for sent in (failed, overran, awaited):
        worker.assert_log_exists(f"[{sent.id}] is a dead letter", timeout=DEADLINE)

    letters = {letter.id: letter for letter in dead_letters.peek(rabbit)}

    assert set(letters) == {failed.id, overran.id, awaited.id}
    exhausted, timed_out = letters[failed.id], letters[overran.id]
    assert letters[awaited.id].reason is DeadLetterReason.TIMED_OUT
    assert (exhausted.reason, exhausted.task) == (DeadLetterReason.RETRIES_EXHAUSTED, "kill.fails")
    assert [(attempt.number, attempt.error) for attempt in exhausted.attempts] == [
        (1, "LookupError"),
        (2, "LookupError"),
    ]
    assert "raise LookupError(key)" in (exhausted.traceback or "")
    assert (timed_out.reason, timed_out.exception) == (DeadLetterReason.TIMED_OUT, "SoftTimeLimitExceeded")
    assert (timed_out.args, len(timed_out.attempts)) == ((str(runs.folder), "overruns"), 1)
    assert runs.of("fails") == ["begun", "begun"]
    for key in ("overruns", "awaits"):  # interrupted once, by the limit: it counts from before the function begins
        (seconds,) = map(float, runs.of(key))
        assert 0 < seconds < LIMIT + GRACE
