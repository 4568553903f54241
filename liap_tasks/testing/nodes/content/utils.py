"""List the processes of a node: what pytest-celery runs beside a worker for ``get_running_processes_info``."""

from __future__ import annotations

import json
import os

import psutil

COLUMNS = ["pid", "name", "username", "cmdline", "cpu_percent", "memory_percent", "create_time"]


def get_running_processes_info(columns: list[str] | None = None) -> str:
    """Return the node's process and its children as a JSON array of objects with these columns (default: all)."""
    node = psutil.Process(int(os.environ["LIAP_NODE_PID"]))
    return json.dumps([process.as_dict(columns or COLUMNS) for process in [node, *node.children(recursive=True)]])
