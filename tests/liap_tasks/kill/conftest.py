"""Workers of ``create_app`` as processes, on a RabbitMQ virtual host of each test's own; the tests start them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryWorkerContainer,
)

from liap_tasks import LiapApp
from liap_tasks.testing.nodes.worker import LiapTestSetup, LiapWorkerContainer, LocalTestWorker
from tests.liap_tasks.kill import tasks

StartWorker = Callable[..., LocalTestWorker]


@pytest.fixture
def local_rabbitmq_url(rabbitmq_virtual_host: str) -> str:
    return rabbitmq_virtual_host


@pytest.fixture
def celery_broker_cluster(celery_rabbitmq_broker: CeleryTestBroker) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(celery_rabbitmq_broker)


@pytest.fixture
def celery_backend_cluster(celery_rpc_backend: CeleryTestBackend) -> CeleryBackendCluster:
    return CeleryBackendCluster(celery_rpc_backend)


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    return LiapTestSetup


@pytest.fixture
def default_worker_container_cls() -> type[CeleryWorkerContainer]:
    return LiapWorkerContainer


@pytest.fixture
def default_worker_tasks() -> set[ModuleType]:
    return {tasks}


@pytest.fixture
def rabbit(celery_setup_app: LiapApp) -> LiapApp:
    """The app of the test, on the broker of its workers."""
    return celery_setup_app


@pytest.fixture
def start_worker(another_worker: StartWorker) -> StartWorker:
    """Start a worker: ``start_worker("-P", "prefork", "-c", "2")``."""
    return another_worker


class Runs:
    """What the tasks of ``tasks.py`` noted down: a file for each message, a line for each event."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, key: str) -> list[str]:
        """The events of one message: ``begun``, ``begun redelivered``, ``done``."""
        path = self.folder / key
        return path.read_text().splitlines() if path.exists() else []

    def keys(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def done(self) -> set[str]:
        return {key for key in self.keys() if "done" in self.of(key)}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)
