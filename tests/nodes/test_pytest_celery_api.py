"""pytest-celery's own API on local processes, over RabbitMQ and Redis: what its users do with Docker containers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import celery
import pytest
from celery import Celery, chain, group
from celery.result import AsyncResult
from pytest_celery import (
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
    CeleryWorkerContainer,
    ping,
)
from pytest_docker_tools.exceptions import TimeoutError as LogTimeout

from liap_tasks.testing import local_nodes
from liap_tasks.testing.nodes.address import LocalRabbitMQBroker
from liap_tasks.testing.nodes.errors import DockerOnlyError, NotOurServerError
from liap_tasks.testing.nodes.worker import LocalTestWorker, LocalWorkerContainer
from tests.nodes import signals, tasks
from tests.nodes.ended import gone

DEADLINE = 60


@pytest.fixture
def default_worker_tasks(default_worker_tasks: set[ModuleType]) -> set[ModuleType]:
    return {*default_worker_tasks, tasks}


@pytest.fixture
def default_worker_signals() -> set[ModuleType]:
    return {signals}


@pytest.fixture
def setup(celery_setup: CeleryTestSetup) -> CeleryTestSetup:
    assert celery_setup.ready()
    return celery_setup


def result(sent: AsyncResult[Any]) -> Any:
    return sent.get(timeout=DEADLINE)


def call(setup: CeleryTestSetup, task: Any, *arguments: Any) -> Any:
    assert setup.worker is not None
    return result(task.s(*arguments).apply_async(queue=setup.worker.worker_queue))


def test_a_setup_is_ready_and_its_worker_works(setup: CeleryTestSetup) -> None:
    worker = setup.worker
    assert isinstance(worker, LocalTestWorker)
    assert setup.ready(ping=True, control=True)
    assert len(setup) == 3

    assert call(setup, tasks.shout, "x") == "X"
    assert result(chain(tasks.shout.s("a"), tasks.shout.s()).apply_async()) == "A"
    assert sorted(result(group(tasks.shout.s(letter) for letter in "ab").apply_async())) == ["A", "B"]
    with pytest.raises(LookupError, match="nothing here"):
        call(setup, tasks.fails)

    worker.assert_log_exists("Task tests.nodes.tasks.fails")
    worker.assert_log_exists("nothing here", timeout=DEADLINE)
    worker.assert_log_exists("the signal handler heard that the worker is ready")
    worker.assert_log_does_not_exist("what nobody logs", timeout=0)
    assert "ready." in worker.logs()
    assert worker.process.log_file.read_text() == worker.logs()

    # the same worker by its name, version, queue, files and processes
    assert setup.app.control.ping(destination=[worker.hostname()], limit=1) == [{worker.hostname(): {"ok": "pong"}}]
    assert worker.version == celery.__version__
    assert (worker.worker_queue, worker.log_level) == ("celery", "INFO")
    assert "tasks.py" in worker.container.get_text("/app/tests/nodes/tasks.py")
    assert worker.container.exec_run("python -c 'import app; print(app.app.main)'") == (0, b"celery_test_app\n")
    processes = worker.get_running_processes_info(["pid", "name"], filters={"name": "celery"})
    assert {worker.process.pid, call(setup, tasks.worker_pid)} <= {process["pid"] for process in processes}
    assert os.getpid() not in {process["pid"] for process in processes}

    # what is not logged
    with pytest.raises(LogTimeout, match="no 'nothing of the kind' in the log within 0 s"):
        worker.wait_for_log("nothing of the kind", timeout=0)
    with pytest.raises(AssertionError, match="did not log"):
        worker.assert_log_exists("nothing of the kind", timeout=0)

    # what only Docker has
    with pytest.raises(DockerOnlyError, match="is a local process: it has no 'image'"):
        worker.container._container.image
    with pytest.raises(DockerOnlyError, match="no 'Mounts'"):
        worker.container.attrs["Mounts"]


class TestKilled:
    """Four workers, each ended in a way of its own, all at once: Celery takes its time to end by itself."""

    @pytest.fixture
    def celery_worker_cluster(self, another_worker: Callable[..., CeleryTestWorker]) -> CeleryWorkerCluster:
        pools = ("prefork", "prefork", "threads", "threads")
        return CeleryWorkerCluster(*[another_worker("-P", pool, "-c", "1", wait=False) for pool in pools])

    def test_a_worker_is_killed_each_way(self, setup: CeleryTestSetup) -> None:
        assert setup.worker_cluster is not None
        killed, terminated, quit_, shut_down = cast("list[LocalTestWorker]", list(setup.worker_cluster))

        terminated.kill(signal="SIGTERM")
        quit_.kill(signal=signal.SIGQUIT)
        setup.app.control.shutdown(destination=[shut_down.hostname()])
        children = [process["pid"] for process in killed.get_running_processes_info(["pid"])]
        killed.kill()

        assert killed.container.status == "exited"  # at once
        assert killed.wait_for_end(0) == -signal.SIGKILL
        assert len(children) == 2
        assert all(map(gone, children))
        for worker, text in (
            (terminated, "worker: Warm shutdown"),
            (quit_, "worker: Cold shutdown"),
            (shut_down, "Got shutdown from remote"),
        ):
            status = worker.wait_for_end(DEADLINE)
            assert status >= 0  # it ended by itself
            assert worker.container.attrs["State"] == {"Status": "exited", "Pid": 0, "ExitCode": status}
            worker.assert_log_exists(text, timeout=0)
            worker.kill()  # nothing happens: it has ended


class TestRestarted:
    @pytest.fixture
    def default_worker_command(self, default_worker_container_cls: type[CeleryWorkerContainer]) -> list[str]:
        return default_worker_container_cls.command("-P", "threads", "-c", "1")  # it ends faster than prefork

    @pytest.mark.parametrize(
        ("celery_broker", "force"),
        [
            pytest.param("celery_rabbitmq_broker", False, marks=pytest.mark.rabbitmq, id="rabbitmq-gracefully"),
            pytest.param("celery_redis_broker", True, marks=pytest.mark.redis, id="redis-by-force"),
        ],
        indirect=["celery_broker"],
    )
    def test_a_restarted_worker_works_again_under_its_name(self, setup: CeleryTestSetup, force: bool) -> None:
        worker = setup.worker
        assert isinstance(worker, LocalTestWorker)
        name, pid, log = worker.hostname(), worker.process.pid, worker.logs()

        worker.restart(force=force)

        assert worker.container.status == "running"
        assert (worker.hostname(), worker.process.pid != pid) == (name, True)
        assert worker.logs().startswith(log)
        assert worker.logs().count(f"{name} ready.") == 2
        assert call(setup, tasks.shout, "again") == "AGAIN"


class TestCluster:
    @pytest.fixture
    def celery_worker_cluster(
        self, celery_worker: CeleryTestWorker, another_worker: Callable[..., CeleryTestWorker]
    ) -> CeleryWorkerCluster:
        return CeleryWorkerCluster(celery_worker, another_worker("-P", "threads"))

    def test_two_workers_are_one_cluster(self, setup: CeleryTestSetup) -> None:
        cluster = setup.worker_cluster
        assert cluster is not None
        assert len(cluster) == 2
        assert cluster.versions == {celery.__version__}
        names = {worker.hostname() for worker in cluster}
        answers = setup.app.control.ping(limit=2, timeout=DEADLINE)
        assert {name for answer in answers for name in answer} == names

        cluster[0].kill()

        assert call(setup, tasks.shout, "one is left") == "ONE IS LEFT"
        cluster[1].assert_log_exists("tests.nodes.tasks.shout")


class UsersContainer(LocalWorkerContainer):
    @classmethod
    def command(cls, *args: str, **options: Any) -> list[str]:
        return super().command("-P", "solo", **options)

    @classmethod
    def log_level(cls) -> str:
        return "DEBUG"

    @classmethod
    def worker_queue(cls) -> str:
        return "users"

    @classmethod
    def worker_name(cls) -> str:
        return "users_worker"


class TestOfAUser:
    @pytest.fixture
    def celery_broker(self, celery_redis_broker: CeleryTestBroker) -> CeleryTestBroker:
        return celery_redis_broker

    @pytest.fixture
    def default_worker_container_cls(self) -> type[LocalWorkerContainer]:
        return UsersContainer

    @pytest.fixture
    def default_worker_app(self, celery_setup_app: Celery) -> Celery:
        celery_setup_app.conf.task_default_rate_limit = "900/s"
        return celery_setup_app

    @pytest.fixture
    def default_worker_env(self, default_worker_env: dict[str, str]) -> dict[str, str]:
        return {**default_worker_env, "USERS_VARIABLE": "of the user"}

    @pytest.mark.redis
    def test_what_a_user_overrides_is_what_runs(self, setup: CeleryTestSetup) -> None:
        worker = setup.worker
        assert worker is not None
        assert worker.hostname().startswith("users_worker@")
        assert worker.container.env["USERS_VARIABLE"] == "of the user"
        worker.assert_log_exists('"task_default_rate_limit": "900/s"', timeout=0)
        worker.assert_log_exists("DEBUG/MainProcess", timeout=0)
        assert call(setup, ping) == "pong"
        assert call(setup, tasks.worker_pid) == worker.container.attrs["State"]["Pid"]  # solo: no children

        # its Redis is a process of its own: it comes back, and the worker with it
        assert setup.broker is not None
        setup.broker.restart()
        worker.assert_log_exists("Connection to broker lost", timeout=DEADLINE)
        sent = tasks.shout.s("after it").apply_async(queue="users")
        worker.assert_log_exists(f"shout[{sent.id}] succeeded", timeout=DEADLINE)


@pytest.mark.rabbitmq
def test_a_server_that_others_use_too_is_neither_killed_nor_restarted(
    celery_rabbitmq_broker: LocalRabbitMQBroker,
) -> None:
    assert celery_rabbitmq_broker.ready()
    with celery_rabbitmq_broker.container.client as connection:
        connection.connect()
    with pytest.raises(NotOurServerError, match="its server is run by somebody else"):
        celery_rabbitmq_broker.kill()
    with pytest.raises(NotOurServerError):
        celery_rabbitmq_broker.restart()
    assert celery_rabbitmq_broker.config(vhost="a/b")["url"].endswith("/a%2Fb")


def test_a_docker_image_of_the_worker_is_refused(request: pytest.FixtureRequest) -> None:
    for fixture in ("celery_base_worker_image", "default_worker_volume"):
        with pytest.raises(DockerOnlyError, match=f"no {fixture!r}"):
            request.getfixturevalue(fixture)


def test_a_server_that_nobody_named_is_told_with_the_ways_to_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIAP_NODES_RABBITMQ_URL", raising=False)
    with pytest.raises(pytest.fail.Exception, match="set LIAP_NODES_RABBITMQ_URL, or define the fixture local_rabbit"):
        local_nodes._url_from("LIAP_NODES_RABBITMQ_URL", "local_rabbitmq_url")
    monkeypatch.setenv("LIAP_NODES_RABBITMQ_URL", "amqp://somewhere//")
    assert local_nodes._url_from("LIAP_NODES_RABBITMQ_URL", "local_rabbitmq_url") == "amqp://somewhere//"
