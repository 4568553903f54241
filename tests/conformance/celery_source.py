"""Celery's own integration tests, which are in its source distribution only, run over the served broker.

    python -m tests.conformance.celery_source             test_tasks, test_canvas and test_inspect: some twenty minutes
    python -m tests.conformance.celery_source -k chord    more arguments are pytest's

Of Celery 5.7.0's 316 tests 310 pass (5 of them though marked as expected to fail), 3 skip themselves, 2 fail as marked.
One fails now and then: ``test_replaced_task_nesting_level_0`` clears what its signal handler notes after it has
published, and by then a quick broker has delivered.

Like kombu's classes (:mod:`tests.conformance.kombu_source`) they stay in ``.cache/``. They run in a pytest of their
own: their package is called ``t``, their fixtures have the names of ours. They need Redis, for results and for what
tasks note.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import celery

from tests.conformance.kombu_source import ROOT, SourceUnavailable, source_archive
from tests.servers.programs import REDIS, find_program
from tests.servers.redis import redis
from transports.broker import BrokerThread

__all__ = ["MODULES", "SourceUnavailable", "integration_tests", "run"]

MODULES = ("test_tasks.py", "test_canvas.py", "test_inspect.py")
SETTINGS = "[pytest]\npython_classes = test_*\nmarkers =\n    flaky\n    timeout\n"


def integration_tests() -> Path:
    """Return the folder that holds Celery's package of tests, ``t``; raises SourceUnavailable."""
    cached = ROOT / ".cache" / f"celery-{celery.__version__}"
    if not (cached / "pytest.ini").exists():
        with tempfile.TemporaryDirectory(prefix="liap-celery-") as folder:
            path = source_archive("celery", celery.__version__, Path(folder))
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
            top = Path(folder, path.name.removesuffix(".tar.gz"))
            shutil.copytree(top / "t" / "integration", cached / "t" / "integration", dirs_exist_ok=True)
            for file in (top / "t").glob("*.py"):
                shutil.copy(file, cached / "t")
        (cached / "pytest.ini").write_text(SETTINGS)  # last: it says that all is there
    return cached


def run(broker_url: str, redis_url: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Celery's integration tests with pytest arguments, on a broker, with results in an empty Redis database."""
    folder = integration_tests()
    where = urlsplit(redis_url)
    environment = {
        **os.environ,
        "TEST_BROKER": broker_url,
        "TEST_BACKEND": redis_url,
        "REDIS_HOST": where.hostname or "localhost",
        "REDIS_PORT": str(where.port or 6379),
        "WORKER_LOGLEVEL": "INFO",  # some tests read the worker's log
        "PYTHONPATH": str(folder),
    }
    plugins = (
        "-p",
        "celery.contrib.pytest",
        "-p",
        "transports",
        "-p",
        "no:liap_tasks.testing",
        "-p",
        "no:cacheprovider",
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", str(folder / "pytest.ini"), *plugins, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def main(arguments: Sequence[str]) -> int:
    """Run them all and print what pytest printed."""
    program = find_program(REDIS)
    if program is None:
        print(REDIS.how_to_get)
        return 1
    with tempfile.TemporaryDirectory() as folder, redis(program) as redis_url:
        with BrokerThread(f"{folder}/b.sock") as broker:
            modules = [f"t/integration/{name}" for name in MODULES]
            done = run(f"liap-broker://{broker.address}", redis_url, [*modules, *arguments])
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
