"""What all tests share: the servers, each started by the first test that asks for its URL."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.servers.fixtures import (
    mark_tests_by_server,
    postgres_url,
    rabbitmq_node,
    rabbitmq_url,
    rabbitmq_virtual_host,
    redis_url,
)
from transports.wire.places import default_socket

__all__ = ["postgres_url", "rabbitmq_node", "rabbitmq_url", "rabbitmq_virtual_host", "redis_url"]

pytest_plugins = ["liap_tasks.testing", "liap_tasks.testing.local_nodes"]


_home = TemporaryDirectory(prefix="liap-")


def pytest_configure() -> None:
    """Let no test touch what is the user's: the broker that programs share by default, and files where tests run.

    Dead letters stay in their queue unless a test asks for a store.
    """
    os.environ.setdefault("DLQ_STORE_URL", "none")
    for variable, folder in (("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", "state")):
        Path(_home.name, folder).mkdir(mode=0o700, exist_ok=True)
        os.environ[variable] = str(Path(_home.name, folder))


def pytest_unconfigure() -> None:
    """Stop the broker that programs under test have started, if any."""
    serving = Path(f"{default_socket()}.lock")
    if serving.exists() and (pid := serving.read_text()):
        os.kill(int(pid), signal.SIGKILL)
    _home.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_tests_by_server(items)
