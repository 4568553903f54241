"""pytest-celery's fixtures on local nodes: RabbitMQ and Redis as brokers, and a Docker that nobody may ask."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_celery import CeleryTestBackend, CeleryTestBroker

BROKERS = [
    pytest.param("celery_rabbitmq_broker", marks=pytest.mark.rabbitmq, id="rabbitmq"),
    pytest.param("celery_redis_broker", marks=pytest.mark.redis, id="redis"),
]


@pytest.fixture(scope="session")
def docker_client() -> Any:
    pytest.fail("a test of local nodes asked for Docker")


@pytest.fixture
def local_rabbitmq_url(rabbitmq_virtual_host: str) -> str:
    return rabbitmq_virtual_host


@pytest.fixture
def needs_redis_server(redis_url: str) -> None:
    """Skip, or fail in CI, where no redis-server can be started."""


@pytest.fixture(params=BROKERS)
def celery_broker(request: pytest.FixtureRequest) -> CeleryTestBroker:
    broker: CeleryTestBroker = request.getfixturevalue(request.param)
    return broker


@pytest.fixture
def celery_backend(celery_rpc_backend: CeleryTestBackend) -> CeleryTestBackend:
    return celery_rpc_backend


@pytest.fixture
def default_redis_broker(needs_redis_server: None, default_redis_broker: Any) -> Any:
    return default_redis_broker


@pytest.fixture
def default_redis_backend(needs_redis_server: None, default_redis_backend: Any) -> Any:
    return default_redis_backend
