"""What all tests share: the servers, each started by the first test that asks for its URL."""

from __future__ import annotations

import os

import pytest

from tests.servers.fixtures import (
    mark_tests_by_server,
    postgres_url,
    rabbitmq_node,
    rabbitmq_url,
    rabbitmq_virtual_host,
    redis_url,
)

__all__ = ["postgres_url", "rabbitmq_node", "rabbitmq_url", "rabbitmq_virtual_host", "redis_url"]

pytest_plugins = ["liap_tasks.testing", "liap_tasks.testing.local_nodes"]


def pytest_configure() -> None:
    """Keep dead letters in their queue unless a test asks for a store: no worker writes a file where tests run."""
    os.environ.setdefault("DLQ_STORE_URL", "none")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_tests_by_server(items)
