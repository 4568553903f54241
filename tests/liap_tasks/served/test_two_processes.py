"""The example of two processes, run as its docstring says."""

from __future__ import annotations

import sys

from tests.liap_tasks.served.world import World


def test_the_backend_is_told_what_the_worker_found_out(world: World) -> None:
    world.start(
        *("celery", "-A", "examples.two_processes.tasks", "worker", "-l", "INFO"), label="worker", ready=" ready."
    )

    backend = world.start(sys.executable, "-m", "examples.two_processes.backend", label="backend", ready="scores 8\n")

    assert world.end_of(backend) == 0
    assert "[14, 11, 2] scores 27" in backend.logs().decode()
