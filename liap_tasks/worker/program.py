"""The ``celery worker`` program's worker: our pools in the place of Celery's, a pool's own concurrency."""

from __future__ import annotations

from typing import Any

from celery.apps.worker import Worker
from celery.concurrency.prefork import TaskPool as CeleryPreforkPool
from celery.concurrency.solo import TaskPool as CelerySoloPool
from celery.concurrency.thread import TaskPool as CeleryThreadPool

from liap_tasks.configuration import NotChosen
from liap_tasks.pools.prefork import PreforkPool
from liap_tasks.pools.threads import SoloPool, TaskPool

__all__ = ["LiapWorker"]

OURS: dict[Any, Any] = {CeleryThreadPool: TaskPool, CelerySoloPool: SoloPool, CeleryPreforkPool: PreforkPool}


class LiapWorker(Worker):
    """Celery's worker; ``-P threads``, ``-P solo`` and ``-P prefork`` mean the pools of :mod:`liap_tasks.pools`."""

    pool_cls: Any
    concurrency: int

    def on_init_blueprint(self) -> None:
        """Called when the pool's class is known and none has been made yet."""
        super().on_init_blueprint()
        self.pool_cls = OURS.get(self.pool_cls, self.pool_cls)
        if isinstance(self.concurrency, NotChosen):
            self.concurrency = getattr(self.pool_cls, "usual_concurrency", self.concurrency)
