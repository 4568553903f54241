"""Every example runs, and prints what it is there to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SHOWN = {
    "quickstart.py": ["settled: 42", "retries_exhausted ['ValueError', 'ValueError', 'ValueError']"],
    "events.py": ["announcer: game.started in room-1", "stumbler: game.started on attempt 2"],
    "message_queues.py": [
        "refused: queue 'stakes' is full",
        "settled: game-1",
        "kept: game-2 retries_exhausted ['ValueError', 'ValueError', 'ValueError']",
    ],
    "plain_kombu.py": ["refused: queue 'two' is full", "ready after a minute: [{'move': 1}, {'move': 2}]"],
}

OF_THEIR_OWN = {"fastapi_backend.py": "tests/test_fastapi_example.py"}


@pytest.fixture(autouse=True)
def _default_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program keep its dead letters as it would anywhere else."""
    monkeypatch.delenv("DLQ_STORE_URL", raising=False)


def test_no_example_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == SHOWN.keys() | OF_THEIR_OWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_example_shows_what_it_promises(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for text in SHOWN[name]:
        assert text in done.stdout
