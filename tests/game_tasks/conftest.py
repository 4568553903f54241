"""The game's own app on a broker whose time stands still, with its archive in a temporary file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from game_tasks.application import app
from liap_tasks import LiapApp
from transports import VirtualClock, get_broker, reset_broker


@pytest.fixture(scope="session")
def clock() -> VirtualClock:
    """The time of the game's broker. One broker for all tests: an app keeps its connections and its reply queue."""
    clock = VirtualClock()
    reset_broker(app.conf.broker_url, clock=clock)
    return clock


@pytest.fixture
def game_app(clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiapApp]:
    """Give the app empty queues and an empty archive."""
    monkeypatch.setenv("GAME_ARCHIVE_PATH", str(tmp_path / "games.sqlite3"))
    app.loader.import_default_modules()
    yield app
    with app.connection_for_read() as connection, connection.channel() as channel:
        for name in get_broker(app.conf.broker_url).engine.queues:
            for _, message in channel.delayed(name):
                channel.cancel_delayed(name, message.headers["id"])
            channel.queue_purge(name)


@pytest.fixture
def eager_game_app(game_app: LiapApp) -> Iterator[LiapApp]:
    game_app.conf.task_always_eager = True
    yield game_app
    game_app.conf.task_always_eager = False
