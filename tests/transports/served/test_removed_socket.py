"""A socket that somebody removes from under its broker: it is made again, or the broker ends for the next one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transports.served.raw import RawClient, eventually
from transports.broker import BrokerThread, listening


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LOOK_SECONDS", 0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runtime" / "b.sock"


@pytest.fixture
def served(path: Path) -> Iterator[BrokerThread]:
    with BrokerThread(str(path)) as broker:
        yield broker


def serves(path: Path) -> bool:
    try:
        RawClient(str(path)).socket.close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("removed", ["socket", "lock", "directory"])
def test_what_was_removed_is_made_again_and_clients_notice_nothing(
    path: Path, served: BrokerThread, removed: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RawClient(str(path)).open_channel() as client:
        if removed == "directory":
            shutil.rmtree(path.parent)
        else:
            (path if removed == "socket" else Path(f"{path}.lock")).unlink()

        eventually(lambda: "serving it again" in caplog.text)
        assert serves(path)
        assert client.call("declare_queue", "q", False, False, False, False, None) == ["q", 0, 0]
    served.stop()
    assert not path.exists()


def test_a_broker_that_cannot_make_it_again_ends_with_the_reason(path: Path, served: BrokerThread) -> None:
    with RawClient(str(path)) as client:
        shutil.rmtree(path.parent)
        path.parent.write_text("no directory")

        assert "its socket was removed and cannot be made again" in client.farewell()


def test_a_broker_whose_path_another_has_taken_ends_and_leaves_that_one_alone(path: Path, served: BrokerThread) -> None:
    others: list[BrokerThread] = []
    with RawClient(str(path)) as client:
        served.call(lambda server: (shutil.rmtree(path.parent), others.append(BrokerThread(str(path)).start())))

        assert f"a broker serves {path} already" in client.farewell()
    served.stop()
    assert serves(path)
    others.pop().stop()
