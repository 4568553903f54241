"""The machine on which the nodes of one test run: it starts their processes and ends them with the test.

What pytest-celery puts into a container's volume is written into the process's working directory, which Python searches
first; after it come the folders that pytest itself imports from, so that code under test needs no installation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pytest_celery import CeleryTestContainer

from liap_tasks.testing.nodes.process import LocalProcess
from liap_tasks.testing.nodes.watchdog import Watchdog

__all__ = ["LocalMachine"]

REPORT_TAIL = 20_000

Container = TypeVar("Container", bound=CeleryTestContainer)


class LocalMachine:
    """Starts the nodes of one test.

    folder: where their files go; it is left behind for whoever wants to read the logs.
    """

    def __init__(self, folder: Path, watchdog: Watchdog) -> None:
        self.folder = folder
        self.processes: list[LocalProcess] = []
        self._watchdog = watchdog

    def start(
        self,
        container_cls: type[Container],
        command: Sequence[str],
        *,
        label: str,
        environment: Mapping[str, str] | None = None,
        content: Mapping[str, bytes | None] | None = None,
        wait: bool = True,
    ) -> Container:
        """Start a process and return it as the container that pytest-celery works with.

        label: the first part of the node's name. content: files of its working directory by relative path, None for a
        folder. wait: whether to return when it is ready (its container's ``ready_prompt``) or at once. Raises
        NodeFailed, with the log, when it does not get ready.
        """
        process = LocalProcess(
            command,
            label=label,
            folder=self.folder,
            environment=_environment(environment or {}),
            watchdog=self._watchdog,
        )
        for path, text in (content or {}).items():
            _write(process.working_folder / path, text)
        process.environment["PYTHONPATH"] = _search_path(process.working_folder)
        container: Container = container_cls(process)
        process.ready_prompt = container.ready_prompt
        self.processes.append(process)
        process.start()
        if wait:
            process.wait_until_ready()
        return container

    def close(self) -> None:
        """Kill every process that still runs, as Docker removes the containers of a test."""
        for process in self.processes:
            if process.status == "running":
                process.kill()

    def report(self) -> Iterable[tuple[str, tuple[str, str]]]:
        """Yield the name of each node, and a title with the end of its log, for the report of a failed test."""
        for process in self.processes:
            log = process.logs().decode(errors="replace")
            status = process.status if process.exit_code is None else f"exited with {process.exit_code}"
            yield process.name, (f"node {process.name}, {status}, {process.log_file}", log[-REPORT_TAIL:])


def _environment(given: Mapping[str, Any]) -> dict[str, str]:
    """Return a node's own variables, as text; a search path "inside the container" is none here."""
    return {name: str(value) for name, value in given.items() if name != "PYTHONPATH"}


def _search_path(working_folder: Path) -> str:
    imported_from = [str(Path(entry).resolve()) for entry in sys.path if entry]
    return os.pathsep.join(dict.fromkeys([str(working_folder), str(Path.cwd()), *imported_from]))


def _write(path: Path, text: bytes | None) -> None:
    if text is None:
        path.mkdir(parents=True, exist_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
