"""A pytest plugin: pytest-celery's fixtures with local processes in the place of Docker containers.

::

    # conftest.py
    pytest_plugins = ["liap_tasks.testing.local_nodes"]

Then ``celery_setup``, ``celery_worker``, ``celery_broker``, ``celery_backend`` and their clusters work without Docker.
Redis nodes run ``redis-server`` from PATH. A RabbitMQ and a PostgreSQL are not started here: ``local_rabbitmq_url`` and
``local_postgres_url`` say where one runs, by environment variable or by a fixture of your own with that name::

    @pytest.fixture
    def local_rabbitmq_url(): return "amqp://guest:guest@127.0.0.1:5672//"

A test with an app of ``create_app`` names its classes; everything else is as with any other app::

    @pytest.fixture
    def celery_setup_cls(): return LiapTestSetup

    @pytest.fixture
    def default_worker_container_cls(): return LiapWorkerContainer

Fixtures of its own: ``local_machine`` starts processes, ``another_worker(*arguments)`` starts one more worker,
``celery_sqlite_backend``, ``celery_postgres_backend`` and ``celery_rpc_backend`` are backends to use as parameters of
``celery_backend``. A failed test shows the logs of its nodes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import pools
from pytest_celery import CeleryTestBackend, CeleryTestSetup, CeleryTestWorker, CeleryWorkerContainer

from liap_tasks.testing.nodes.address import Address, AddressContainer, LocalRabbitMQBroker, LocalRabbitMQContainer
from liap_tasks.testing.nodes.errors import DockerOnlyError
from liap_tasks.testing.nodes.machine import LocalMachine
from liap_tasks.testing.nodes.watchdog import Watchdog
from liap_tasks.testing.nodes.worker import LocalTestWorker, LocalWorkerContainer

MACHINE = pytest.StashKey[LocalMachine]()

# -- the machine ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


@pytest.fixture
def local_machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _watchdog: Watchdog
) -> Iterator[LocalMachine]:
    """Start processes that end with the test."""
    machine = LocalMachine(tmp_path_factory.mktemp("nodes"), _watchdog)
    request.node.stash[MACHINE] = machine
    yield machine
    machine.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the nodes with a failed test."""
    report = yield
    machine = item.stash.get(MACHINE, None)
    if report.failed and machine is not None:
        shown = " ".join(title for title, _ in report.sections)  # by pytest-docker-tools: some, by no simple rule
        report.sections.extend(section for name, section in machine.report() if name not in shown)
    return report


# -- workers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def default_worker_container_cls() -> type[CeleryWorkerContainer]:
    """The class that says how a worker is started."""
    return LocalWorkerContainer


@pytest.fixture(scope="session")
def default_worker_container_session_cls() -> type[CeleryWorkerContainer]:
    """The same for fixtures of the whole session."""
    return LocalWorkerContainer


@pytest.fixture
def default_worker_cls() -> type[CeleryTestWorker]:
    """The class of worker nodes."""
    return LocalTestWorker


@pytest.fixture
def default_worker_container(
    local_machine: LocalMachine,
    default_worker_container_cls: type[CeleryWorkerContainer],
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
) -> CeleryWorkerContainer:
    """A ``celery worker`` that is ready."""
    return local_machine.start(
        default_worker_container_cls,
        default_worker_command,
        label="worker",
        environment=default_worker_env,
        content=default_worker_initial_content,
    )


@pytest.fixture
def another_worker(
    local_machine: LocalMachine,
    default_worker_cls: type[CeleryTestWorker],
    default_worker_container_cls: type[CeleryWorkerContainer],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
    default_worker_app: Celery,
) -> Callable[..., CeleryTestWorker]:
    """Start one more worker: ``another_worker("-P", "threads", wait=False)`` returns before it is ready."""

    def start(*arguments: str, wait: bool = True) -> CeleryTestWorker:
        container = local_machine.start(
            default_worker_container_cls,
            default_worker_container_cls.command(*arguments),
            label="worker",
            environment=default_worker_env,
            content=default_worker_initial_content,
            wait=wait,
        )
        return default_worker_cls(container, default_worker_app)

    return start


@pytest.fixture
def celery_setup_app(
    celery_setup_cls: type[CeleryTestSetup], celery_setup_config: dict[str, Any], celery_setup_name: str
) -> Iterator[Celery]:
    """The test's own app; its connections are closed at the end, while the nodes still run."""
    app = celery_setup_cls.create_setup_app(celery_setup_config, celery_setup_name)
    yield app
    consumer: Any = getattr(app.backend, "result_consumer", None)
    # The one that waits for results has a connection that no pool knows. Unused it cannot be stopped (celery 5.7).
    if getattr(consumer, "_consumer", None) is not None or getattr(consumer, "_pubsub", None) is not None:
        consumer.stop()
    pools.reset()  # kombu keeps them for the whole process, by URL
    app.close()


@pytest.fixture(scope="session")
def celery_base_worker_image() -> Any:
    """There is none: raises DockerOnlyError."""
    raise DockerOnlyError("the worker", "celery_base_worker_image")


@pytest.fixture
def default_worker_volume() -> Any:
    """There is none: raises DockerOnlyError."""
    raise DockerOnlyError("the worker", "default_worker_volume")


# -- brokers and backends; another kind is a container class beside ``nodes/redis.py`` and two fixtures like these ----


@pytest.fixture
def local_rabbitmq_url() -> str:
    """The amqp:// URL of a virtual host that the test has for itself; override it, or set LIAP_NODES_RABBITMQ_URL."""
    return _url_from("LIAP_NODES_RABBITMQ_URL", "local_rabbitmq_url")


@pytest.fixture
def default_rabbitmq_broker(local_rabbitmq_url: str) -> LocalRabbitMQContainer:
    """A virtual host of the RabbitMQ at ``local_rabbitmq_url``."""
    return LocalRabbitMQContainer(Address(local_rabbitmq_url, "rabbitmq"))


@pytest.fixture
def celery_rabbitmq_broker(default_rabbitmq_broker: LocalRabbitMQContainer) -> Iterator[LocalRabbitMQBroker]:
    """The broker node of it."""
    broker = LocalRabbitMQBroker(default_rabbitmq_broker)
    yield broker
    broker.teardown()


@pytest.fixture
def default_redis_broker(local_machine: LocalMachine) -> Any:
    """A Redis server of the test's own."""
    return _redis(local_machine)


@pytest.fixture
def default_redis_backend(local_machine: LocalMachine) -> Any:
    """A Redis server of the test's own."""
    return _redis(local_machine)


@pytest.fixture
def celery_sqlite_backend(local_machine: LocalMachine) -> CeleryTestBackend:
    """Results in a SQLite file of the test's own."""
    return _backend(f"db+sqlite:///{local_machine.folder / 'results.db'}", "sqlite")


@pytest.fixture
def local_postgres_url() -> str:
    """The postgresql:// URL of a database that the test has for itself; override it or set LIAP_NODES_POSTGRES_URL."""
    return _url_from("LIAP_NODES_POSTGRES_URL", "local_postgres_url")


@pytest.fixture
def celery_postgres_backend(local_postgres_url: str) -> CeleryTestBackend:
    """Results in the PostgreSQL at ``local_postgres_url``."""
    return _backend(f"db+{local_postgres_url}", "postgres")


@pytest.fixture
def celery_rpc_backend() -> CeleryTestBackend:
    """Results sent to the caller through the broker."""
    return _backend("rpc://", "rpc")


def _redis(machine: LocalMachine) -> Any:
    # Imported when it is used: pytest-celery has this class only where the redis client is installed.
    from liap_tasks.testing.nodes.redis import LocalRedisContainer

    return machine.start(LocalRedisContainer, LocalRedisContainer.command(), label="redis")


def _backend(url: str, label: str) -> CeleryTestBackend:
    return CeleryTestBackend(AddressContainer(Address(url, label)))


def _url_from(variable: str, fixture: str) -> str:
    url = os.environ.get(variable)
    if not url:
        pytest.fail(f"no server to use: set {variable}, or define the fixture {fixture}", pytrace=False)
    return url
