"""Worker nodes: a ``celery worker`` process of pytest-celery's app module, or of an app made by ``create_app``.

Everything that pytest-celery lets a test choose is honoured: tasks, signals and app modules, log level, name, queue,
command, environment and files (``default_worker_tasks`` and so on). Not honoured: ``version()``, because the Celery
that is installed runs, and ports.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

import celery
from celery import Celery
from pytest_celery import RESULT_TIMEOUT, CeleryTestSetup, CeleryTestWorker, CeleryWorkerContainer
from pytest_docker_tools.exceptions import TimeoutError as LogTimeout

from liap_tasks import LiapApp, create_app, load_settings
from liap_tasks.configuration import DEFAULT_QUEUE
from liap_tasks.testing.nodes.process import LocalProcess

__all__ = ["LiapTestSetup", "LiapWorkerContainer", "LocalTestWorker", "LocalWorkerContainer"]


class LocalTestWorker(CeleryTestWorker):
    """A worker node whose log is waited for by event, not by looking once a second."""

    @property
    def process(self) -> LocalProcess:
        """The process itself: its pid, exit status, files."""
        process: LocalProcess = self.container._container
        return process

    def wait_for_log(self, log: str, message: str = "", timeout: float = RESULT_TIMEOUT) -> None:
        """Wait until ``log`` is in the log; raises pytest-docker-tools' TimeoutError after ``timeout`` seconds."""
        if not self.process.wait_for_log(log, timeout):
            raise LogTimeout(f"{message or self.name()}: no {log!r} in the log within {timeout:g} s")

    def wait_for_end(self, timeout: float = RESULT_TIMEOUT) -> int:
        """Wait until the process has ended and return its exit status; raises TimeoutError after ``timeout``."""
        if not self.process.wait(lambda: self.process.status != "running", timeout):
            raise LogTimeout(f"{self.name()} still runs after {timeout:g} s")
        assert self.process.exit_code is not None
        return self.process.exit_code


class LocalWorkerContainer(CeleryWorkerContainer):
    """pytest-celery's worker, started as fast as Celery can: the second it takes to look for neighbours is saved.

    transfers_configuration: whether the worker gets what the test has changed in its own app's configuration.
    """

    transfers_configuration: ClassVar[bool] = True

    @classmethod
    def command(cls, *args: str, **options: Any) -> list[str]:
        """Return the command; ``args`` are more arguments of ``celery worker``."""
        command: list[str] = super().command("--without-mingle", *args, **options)
        return command

    @classmethod
    def version(cls) -> str:
        """Return the version of the Celery that is installed: it is the one that runs."""
        return str(celery.__version__)

    @classmethod
    def utils_module(cls) -> ModuleType:
        """Return the module that lists processes: those of the node, not of the machine."""
        from liap_tasks.testing.nodes.content import utils

        return utils

    @classmethod
    def initial_content(
        cls,
        worker_tasks: set[ModuleType] | None = None,
        worker_signals: set[ModuleType] | None = None,
        worker_app: Celery | None = None,
        app_module: ModuleType | None = None,
        utils_module: ModuleType | None = None,
    ) -> dict[str, bytes]:
        """Return the files of the worker; afterwards the test's own app is the current one again.

        Why: pytest-celery makes apps of its own here, and the latest one made would get the calls of shared tasks.
        """
        configured = worker_app if cls.transfers_configuration else None
        content: dict[str, bytes] = super().initial_content(
            worker_tasks, worker_signals, configured, app_module, utils_module
        )
        if worker_app is not None:
            worker_app.set_current()
        return content


class LiapWorkerContainer(LocalWorkerContainer):
    """A worker of an app made by ``create_app``; the test's broker is its MESSAGE_QUEUE_URL.

    Tasks come from ``default_worker_tasks``: modules with ``@shared_task``, whose options may be a LiapTask's. Further
    settings are environment variables: override ``default_worker_env``. Changes to the test's own app are not
    transferred, unlike pytest-celery's: they hold queues, which cannot be written into a module.
    """

    transfers_configuration = False

    @classmethod
    def worker_queue(cls) -> str:
        return DEFAULT_QUEUE

    @classmethod
    def app_module(cls) -> ModuleType:
        from liap_tasks.testing.nodes.content import liap_app

        return liap_app

    @classmethod
    def initial_env(cls, celery_worker_cluster_config: dict[str, Any], initial: Any = None) -> dict[str, str]:
        """Return the environment: the broker of the test for Celery and for this package."""
        environment: dict[str, str] = super().initial_env(celery_worker_cluster_config, initial)
        return {**environment, "MESSAGE_QUEUE_URL": environment["CELERY_BROKER_URL"]}


class LiapTestSetup(CeleryTestSetup):
    """pytest-celery's setup with an app made by ``create_app`` on the test's broker and result backend."""

    @classmethod
    def create_setup_app(cls, celery_setup_config: dict[str, Any], celery_setup_app_name: str) -> LiapApp:
        """Return the test's own app, the current one."""
        settings = load_settings(message_queue_url=celery_setup_config["broker_url"])
        changes = {key: value for key, value in celery_setup_config.items() if key != "broker_url"}
        app = create_app(settings, main=celery_setup_app_name, changes=changes)
        cls.update_app_config(app)
        return app
