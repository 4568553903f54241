"""The page of examples: every program on it is run as it is, by a pytest that has the plugin from its installation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import liap_tasks.testing

PAGE = Path(liap_tasks.testing.__file__).with_name("README.md")


def test_every_example_runs(tmp_path: Path) -> None:
    programs = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(programs) == PAGE.read_text(encoding="utf-8").count("```python")
    for name, program in programs:
        (tmp_path / name).write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", "."],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^8 passed", done.stdout, re.MULTILINE), done.stdout


def test_every_fixture_is_in_its_table() -> None:
    fixtures = liap_tasks.testing.__all__[: liap_tasks.testing.__all__.index("virtual_clock") + 1]
    assert [name for name in fixtures if f"| `{name}` |" not in PAGE.read_text(encoding="utf-8")] == []


def test_the_plugin_needs_no_pytest_celery() -> None:
    program = "import sys; sys.modules['pytest_celery'] = None; import liap_tasks.testing"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
