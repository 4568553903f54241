"""What README.md and transports/README.md show is what there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme import README, TRANSPORTS, programs, renewed


def test_the_capability_table_is_the_declared_one() -> None:
    text = TRANSPORTS.read_text(encoding="utf-8")
    assert renewed(text) == text, "run `make readme`"


def test_the_first_program_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLQ_STORE_URL", raising=False)  # its default is what readers have
    [program] = programs(README.read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["42", "retries_exhausted"]
