"""The real ``celery`` program, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 30.0


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "", **variables}


def celery(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celery", *arguments],
        cwd=ROOT,
        env=_environment(variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@contextmanager
def running_worker(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start a worker, wait until it is ready, and give its process and the lines it has written so far."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "liap_tasks", "worker", "-l", "INFO", *arguments],
        cwd=ROOT,
        env=_environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            lines.append(line)
            if "ready." in line:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(DEADLINE)
        assert worker.poll() is None, "".join(lines)
        yield worker, lines
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()
        reader.join(DEADLINE)
        if worker.stdout is not None:
            worker.stdout.close()


@pytest.fixture(scope="module")
def worker_run() -> tuple[int, str]:
    """One run of ``celery -A liap_tasks worker`` from start to SIGTERM: its exit code and all it wrote."""
    with running_worker(MESSAGE_QUEUE_URL="liap-memory://") as (worker, lines):
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(DEADLINE)
    return code, "".join(lines)


def test_the_worker_starts_and_ends_cleanly_on_sigterm(worker_run: tuple[int, str]) -> None:
    code, output = worker_run
    assert code == 0, output
    assert "Traceback" not in output


def test_a_worker_alone_with_its_broker_says_so_in_one_line_with_the_way_out(worker_run: tuple[int, str]) -> None:
    warnings = [line for line in worker_run[1].splitlines() if "WARNING" in line]
    assert len(warnings) == 1, worker_run[1]
    assert "EmbeddedWorker" in warnings[0]
    assert "unset MESSAGE_QUEUE_URL" in warnings[0]


def test_the_worker_of_an_in_process_broker_uses_threads(worker_run: tuple[int, str]) -> None:
    assert "(threads)" in worker_run[1], worker_run[1]


def test_a_wrong_setting_ends_the_worker_with_one_clean_line() -> None:
    ended = celery("-A", "liap_tasks", "worker", MAX_QUEUE_SIZE="many")
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr + ended.stdout
    lines = [line for line in (ended.stderr + ended.stdout).splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert "MAX_QUEUE_SIZE" in lines[0]
    assert "many" in lines[0]
    assert "from 1 to 2147483647" in lines[0]


def test_transports_prints_a_table_with_every_transport() -> None:
    ended = celery("transports")
    assert ended.returncode == 0, ended.stderr
    header = ended.stdout.splitlines()[0]
    assert all(scheme in header for scheme in ("`liap-memory://`", "`liap-priority://`", "`amqp://`"))


def test_the_celery_program_knows_our_schemes_without_an_app() -> None:
    ended = celery("-b", "liap-memory://", "inspect", "ping", "-t", "0.1")
    assert "No nodes replied" in ended.stderr, ended.stderr


def test_a_wrong_setting_met_while_the_app_is_imported_is_one_clean_line_too(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text("from liap_tasks import create_app\napp = create_app()\napp.settings\n")
    ended = celery("-A", "early", "worker", HANDLER_TIMEOUT_SECONDS="0", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert (
        ended.stderr
        == "Error: HANDLER_TIMEOUT_SECONDS='0' is not allowed; allowed: seconds, above 0, at most 315360000\n"
    )
