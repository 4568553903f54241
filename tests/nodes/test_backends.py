"""Backend nodes: a worker in one process keeps a result, the test in another reads it."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from uuid import uuid4

import pytest
from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestSetup
from sqlalchemy import create_engine, text

from tests.nodes import tasks

DEADLINE = 60


@pytest.fixture
def local_postgres_url(postgres_url: str) -> Iterator[str]:
    """A schema of the test's own."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://", 1)
    schema = f"nodes_{uuid4().hex[:12]}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield f"{url}?options=-csearch_path%3D{schema}"
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture
def celery_broker(celery_redis_broker: CeleryTestBroker) -> CeleryTestBroker:
    return celery_redis_broker


@pytest.fixture(
    params=[
        pytest.param("celery_redis_backend", id="redis"),
        pytest.param("celery_sqlite_backend", id="sqlite"),
        pytest.param("celery_postgres_backend", id="postgres", marks=pytest.mark.postgres),
    ]
)
def celery_backend(request: pytest.FixtureRequest) -> CeleryTestBackend:
    backend: CeleryTestBackend = request.getfixturevalue(request.param)
    return backend


@pytest.fixture
def default_worker_tasks() -> set[ModuleType]:
    return {tasks}


@pytest.mark.redis
def test_a_result_is_read_from_each_backend(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready()
    assert celery_setup.worker is not None
    sent = tasks.shout.s("kept").apply_async(queue=celery_setup.worker.worker_queue)
    failed = tasks.fails.s().apply_async(queue=celery_setup.worker.worker_queue)

    assert sent.get(timeout=DEADLINE, interval=0.02) == "KEPT"
    assert failed.get(timeout=DEADLINE, interval=0.02, propagate=False).args == ("nothing here",)
    assert celery_setup.app.AsyncResult(sent.id).result == "KEPT"  # it stays
    assert (sent.state, failed.state) == ("SUCCESS", "FAILURE")
