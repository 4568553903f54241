"""Unique calls whose processes die: the call goes on with a higher token, and frees its key when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from liap_tasks import DuplicateTaskError, LiapApp, dead_letters
from tests.liap_tasks.kill import tasks
from tests.liap_tasks.kill.conftest import Runs, StartWorker

DEADLINE = 60


@pytest.fixture
def default_worker_env(default_worker_env: dict[str, str], locks_url: str) -> dict[str, str]:
    return {**default_worker_env, "UNIQUE_STORE_URL": locks_url}


@pytest.fixture
def locks_url(tmp_path: Path) -> str:
    folder = tmp_path / "locks"
    folder.mkdir()
    return f"sqlite:///{folder}/locks.sqlite3"


@pytest.fixture(autouse=True)
def _the_same_locks(monkeypatch: pytest.MonkeyPatch, locks_url: str) -> None:
    monkeypatch.setenv("UNIQUE_STORE_URL", locks_url)


def tokens(runs: Runs, key: str) -> list[int]:
    return [int(event.split()[1]) for event in runs.of(key) if event.startswith("token")]


def refused(runs: Runs, key: str) -> str:
    """Make a call that is refused, and return who has the key."""
    with pytest.raises(DuplicateTaskError) as error:
        tasks.unique.delay(str(runs.folder), key)
    return error.value.holder


def holder(app: LiapApp, key: str) -> Any:
    return app.unique_locks.store.find(f'kill.unique:{{"key":"{key}"}}')


@pytest.mark.rabbitmq
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_call_whose_worker_is_killed_keeps_its_key_and_gets_a_higher_token(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs, pool: str
) -> None:
    first = start_worker("-P", pool, "-c", "1")
    call = tasks.unique.delay(str(runs.folder), "key")
    first.assert_log_exists("key: token", timeout=DEADLINE)
    assert refused(runs, "key") == call.id
    first.kill()
    assert refused(runs, "key") == call.id

    second = start_worker("-P", pool, "-c", "1")
    second.assert_log_exists("key: token", timeout=DEADLINE)
    assert refused(runs, "key") == call.id
    killed, redelivered = tokens(runs, "key")
    assert redelivered > killed
    (runs.folder / "go").touch()
    second.assert_log_exists("key: done.", timeout=DEADLINE)
    again = tasks.unique.delay(str(runs.folder), "other")
    second.assert_log_exists("other: done.", timeout=DEADLINE)  # the worker is through with the first
    assert holder(rabbit, "key") is None
    assert again.id != call.id
    tasks.unique.delay(str(runs.folder), "key")


@pytest.mark.rabbitmq
def test_a_prefork_worker_frees_the_key_of_a_call_that_lost_its_process_or_was_terminated(
    rabbit: LiapApp, start_worker: StartWorker, runs: Runs
) -> None:
    worker = start_worker("-P", "prefork", "-c", "1")
    deadly = tasks.unique.delay(str(runs.folder), "deadly", "kills its process")
    worker.assert_log_exists(f"[{deadly.id}] is a dead letter: worker_lost", timeout=DEADLINE)
    first, second = tokens(runs, "deadly")
    assert second > first
    (letter,) = dead_letters.peek(rabbit)
    assert letter.id == deadly.id

    waiting = tasks.unique.delay(str(runs.folder), "waiting")
    worker.assert_log_exists("waiting: token", timeout=DEADLINE)
    assert holder(rabbit, "deadly") is None
    assert refused(runs, "waiting") == waiting.id
    rabbit.control.revoke(waiting.id, terminate=True)
    worker.assert_log_exists(f"Terminating {waiting.id}", timeout=DEADLINE)
    (runs.folder / "go").touch()
    tasks.unique.delay(str(runs.folder), "deadly")
    worker.assert_log_exists("deadly: done.", timeout=DEADLINE)
    assert holder(rabbit, "waiting") is None
    tasks.unique.delay(str(runs.folder), "waiting")
    worker.assert_log_exists("waiting: done.", timeout=DEADLINE)


@pytest.mark.rabbitmq
def test_a_gevent_worker_runs_a_call_under_its_lock(rabbit: LiapApp, start_worker: StartWorker, runs: Runs) -> None:
    worker = start_worker("-P", "gevent", "-c", "1")
    call = tasks.unique.delay(str(runs.folder), "key")
    worker.assert_log_exists("key: token", timeout=DEADLINE)
    assert refused(runs, "key") == call.id
    (runs.folder / "go").touch()
    worker.assert_log_exists("key: done.", timeout=DEADLINE)
    tasks.unique.delay(str(runs.folder), "other")
    worker.assert_log_exists("other: done.", timeout=DEADLINE)
    assert holder(rabbit, "key") is None
