"""What all tests share: the servers, each started by the first test that asks for its URL."""

from __future__ import annotations

import pytest

from tests.servers.fixtures import mark_tests_by_server, postgres_url, rabbitmq_url, redis_url

__all__ = ["postgres_url", "rabbitmq_url", "redis_url"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_tests_by_server(items)
