"""The benchmark runs and gives every figure. Nothing is timed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.__main__ import SECTIONS


def test_quick_run_gives_every_figure(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", str(figures)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    taken = json.loads(figures.read_text(encoding="utf-8"))
    assert len(taken["celery"]) == 6
    assert all(value > 0 for row in taken["celery"] for value in row["figures"].values())
    sections = {name: rows for name, rows in taken.items() if name != "celery"}
    assert sections.keys() == {name for name, _, _ in SECTIONS}
    assert all(row["figure"] for rows in sections.values() for row in rows)
    assert done.stdout.startswith("| (times better than stock) | Celery on `liap-memory://`")
