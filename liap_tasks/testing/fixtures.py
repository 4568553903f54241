"""The fixtures of the plugin; each is made for one test and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from liap_tasks.application import LiapApp, create_app
from liap_tasks.embedded import EmbeddedWorker
from liap_tasks.testing.clock import WorkerClock
from liap_tasks.testing.dead_letters import DeadLetters
from liap_tasks.testing.events import PublishedEvents
from liap_tasks.testing.isolation import isolated

__all__ = [
    "dead_letters",
    "eager_app",
    "liap_app",
    "liap_app_factory",
    "liap_settings",
    "liap_worker",
    "liap_worker_options",
    "published_events",
    "virtual_clock",
]


@pytest.fixture
def liap_app_factory() -> Iterator[Callable[[], LiapApp]]:
    """Return what makes the app under test. Override it to return your own: ``return lambda: app``."""
    made: list[LiapApp] = []

    def make() -> LiapApp:
        made.append(create_app(main="tests", set_as_current=False))
        return made[-1]

    yield make
    for app in made:
        app.close()


@pytest.fixture
def liap_settings() -> dict[str, Any]:
    """Return settings of the app under test by field name, ``{"max_queue_size": 5}``. Override it."""
    return {}


@pytest.fixture
def liap_app(
    request: pytest.FixtureRequest,
    liap_app_factory: Callable[[], LiapApp],
    liap_settings: dict[str, Any],
    tmp_path: Path,
) -> Iterator[LiapApp]:
    """Return the app under test, on an empty in-process broker and a dead-letter store of its own.

    Its time is the machine's, or the ``virtual_clock`` if the test has that fixture.
    """
    clock = WorkerClock() if "virtual_clock" in request.fixturenames else None
    settings = {"dlq_store_url": f"sqlite:///{tmp_path}/dead_letters.sqlite3", **liap_settings}
    with isolated(liap_app_factory(), clock=clock, **settings) as app:
        yield app


@pytest.fixture
def liap_worker_options() -> dict[str, Any]:
    """Return the options of ``liap_worker``, those of EmbeddedWorker: ``{"pool": "asyncio"}``. Override it."""
    return {}


@pytest.fixture
def liap_worker(liap_app: LiapApp, liap_worker_options: dict[str, Any]) -> Iterator[EmbeddedWorker]:
    """Return a worker of the app under test that runs in threads of this process."""
    with EmbeddedWorker(liap_app, **liap_worker_options) as worker:
        yield worker


@pytest.fixture
def eager_app(liap_app: LiapApp) -> Iterator[LiapApp]:
    """Return the app under test with calls that run at once, where they are made; it needs no worker."""
    before = liap_app.conf.task_always_eager
    liap_app.conf.task_always_eager = True
    yield liap_app
    liap_app.conf.task_always_eager = before


@pytest.fixture
def dead_letters(liap_app: LiapApp) -> DeadLetters:
    """Return the dead letters of the app under test."""
    return DeadLetters(liap_app)


@pytest.fixture
def published_events(liap_app: LiapApp) -> Iterator[PublishedEvents]:
    """Return the events that the app under test publishes from now on."""
    with PublishedEvents(liap_app) as events:
        yield events


@pytest.fixture
def virtual_clock(liap_app: LiapApp) -> WorkerClock:
    """Return the time of the app under test, which stands still until ``virtual_clock.advance(60)`` moves it."""
    clock = liap_app.time_source
    if not isinstance(clock, WorkerClock):
        raise pytest.UsageError("virtual_clock must be an argument of the test or of a fixture that it uses")
    return clock
