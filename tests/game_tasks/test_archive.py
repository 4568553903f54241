"""The archive: every event once, games as they ended, whoever writes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from game_tasks.archive import GameArchive, default_archive
from game_tasks.events import GameEvent, GameEventType


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[GameArchive]:
    archive = GameArchive(tmp_path / "games.sqlite3")
    yield archive
    archive.close()


def event(sequence: int, event_type: GameEventType = GameEventType.PIECE_PLAYED, room: str = "r1") -> GameEvent:
    return GameEvent(event_type=event_type, room_id=room, game_id="g1", sequence=sequence, data={"n": sequence})


def test_event_is_stored_once_however_often_it_comes(archive: GameArchive) -> None:
    one = event(1)
    assert [archive.store_event(one), archive.store_event(one)] == [True, False]
    assert archive.events("r1") == [one]


def test_events_come_back_in_the_order_of_their_room(archive: GameArchive) -> None:
    events = [event(n) for n in range(1, 6)]
    for each in reversed(events):
        archive.store_event(each)
    archive.store_event(event(1, room="other"))
    assert archive.events("r1") == events


def test_many_threads_write_without_losing_an_event(archive: GameArchive) -> None:
    events = [event(n) for n in range(1, 101)]
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(archive.store_event, events))
    assert archive.events("r1") == events


def test_game_is_kept_when_its_room_is_forgotten(archive: GameArchive) -> None:
    ended = event(9, GameEventType.GAME_ENDED)
    archive.store_event(ended)
    archive.store_game(ended)
    archive.store_game(ended)
    assert archive.forget_room("r1") == 1
    assert archive.events("r1") == []
    assert archive.game("g1") == {"n": 9}


def test_unknown_game_is_none(archive: GameArchive) -> None:
    assert archive.game("nobody's") is None


def test_event_without_a_game_cannot_end_one(archive: GameArchive) -> None:
    stray = GameEvent(event_type=GameEventType.GAME_ENDED, room_id="r1", sequence=1)
    with pytest.raises(ValueError, match="belongs to no game"):
        archive.store_game(stray)


def test_default_archive_is_the_file_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "here.sqlite3"
    monkeypatch.setenv("GAME_ARCHIVE_PATH", str(path))
    assert default_archive() is default_archive()
    assert path.exists()
    default_archive().close()


def test_an_event_of_no_room_and_without_a_number_is_stored_once(archive: GameArchive) -> None:
    uncounted, counted = GameEvent(event_type=GameEventType.STATE_CHANGED, game_id="g1"), event(1)
    assert archive.store_events([counted, uncounted]) == 2
    assert archive.store_event(uncounted) is False
    assert archive.events_of_game("g1") == [uncounted, counted]


def test_a_moment_without_a_time_zone_is_utc(archive: GameArchive) -> None:
    then = datetime(2026, 1, 1, 12)
    early, late = (
        GameEvent(event_type=GameEventType.STATE_CHANGED, game_id="g1", sequence=number, timestamp=moment)
        for number, moment in enumerate([datetime(2026, 1, 1, 11, 59, tzinfo=UTC), then.replace(tzinfo=UTC)], 1)
    )
    archive.store_events([early, late])
    assert archive.events_of_game("g1", since=then) == [late]


@pytest.mark.parametrize("since", ["2020", 3.0, True])
def test_what_is_neither_a_number_nor_a_moment_is_refused(archive: GameArchive, since: Any) -> None:
    with pytest.raises(TypeError, match="sequence number or a datetime"):
        archive.events_of_game("g1", since=since)
