"""The URLs of the servers as pytest fixtures: a test that names one gets the server, started once a session.

A URL in the environment (``LIAP_TEST_RABBITMQ_URL`` and so on) is used as it is. A missing program skips the test with
a line that says how to get it; with ``CI=true`` it fails the test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.servers.postgres import postgres
from tests.servers.programs import POSTGRES, RABBITMQ, REDIS, Program, find_program, is_ci
from tests.servers.rabbitmq import RabbitMQNode, rabbitmq
from tests.servers.redis import redis

__all__ = [
    "mark_tests_by_server",
    "postgres_url",
    "rabbitmq_node",
    "rabbitmq_url",
    "rabbitmq_virtual_host",
    "redis_url",
]

MARKER_OF_FIXTURE = {"rabbitmq_url": "rabbitmq", "redis_url": "redis", "postgres_url": "postgres"}

Server = TypeVar("Server")


@pytest.fixture(scope="session")
def rabbitmq_node() -> Iterator[RabbitMQNode | None]:
    """The private RabbitMQ node, None when the environment names another."""
    yield from _server(RABBITMQ, rabbitmq)


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq_node: RabbitMQNode | None) -> str:
    """An amqp:// URL of a RabbitMQ node; tests share its virtual host, so they use names of their own."""
    return os.environ[RABBITMQ.url_variable] if rabbitmq_node is None else rabbitmq_node.url


@pytest.fixture
def rabbitmq_virtual_host(rabbitmq_node: RabbitMQNode | None, rabbitmq_url: str) -> Iterator[str]:
    """An amqp:// URL of an empty virtual host of the test's own."""
    if rabbitmq_node is None:
        pytest.skip(f"only the private RabbitMQ gets new virtual hosts: unset {RABBITMQ.url_variable}")
    with rabbitmq_node.virtual_host() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A redis:// URL; tests share its database, so they use key prefixes of their own."""
    yield from _url(REDIS, redis)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A postgresql:// URL; tests share its database, so they use schemas of their own."""
    yield from _url(POSTGRES, postgres)


def mark_tests_by_server(items: list[pytest.Item]) -> None:
    """Give each test that names a server's fixture that server's marker, so that ``-m redis`` selects it."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKER_OF_FIXTURE:
                item.add_marker(MARKER_OF_FIXTURE[fixture])


def _url(program: Program, server: Callable[[Path], AbstractContextManager[str]]) -> Iterator[str]:
    for url in _server(program, server):
        yield os.environ[program.url_variable] if url is None else url


def _server(program: Program, server: Callable[[Path], AbstractContextManager[Server]]) -> Iterator[Server | None]:
    """Yield the server started, or None when the environment has the URL of another."""
    if os.environ.get(program.url_variable):
        yield None
        return
    found = find_program(program)
    if found is None:
        if is_ci():
            pytest.fail(program.how_to_get, pytrace=False)
        pytest.skip(program.how_to_get)
    with server(found) as started:
        yield started
