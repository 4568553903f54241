"""The game's own app for the time of a test: its broker, dead letters, archive and time are the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from game_tasks.application import app
from game_tasks.archive import default_archive
from liap_tasks import LiapApp


@pytest.fixture
def liap_app_factory() -> Callable[[], LiapApp]:
    app.loader.import_default_modules()
    return lambda: app


@pytest.fixture
def game_app(liap_app: LiapApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiapApp]:
    """Give the app an empty archive, too."""
    monkeypatch.setenv("GAME_ARCHIVE_PATH", str(tmp_path / "games.sqlite3"))
    yield liap_app
    default_archive().close()
