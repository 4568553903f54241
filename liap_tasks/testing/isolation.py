"""An app for the time of one test: its broker, its dead-letter store and its clock are nobody else's.

Any app of this package can be isolated, the one of a program too, with its tasks, routes and subscribers. Its settings
are replaced, and what Celery and this package have made by the former ones (connections, queues, reply queue, store) is
dropped, to be made anew when it is needed; afterwards all is as it was.

Limit: the time limit of a task that has none of its own was taken from HANDLER_TIMEOUT_SECONDS when the task was made,
and stays.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu import pools

from liap_tasks.configuration import broker_feature, celery_configuration
from liap_tasks.settings import Settings, load_settings
from liap_tasks.testing.clock import WorkerClock
from liap_tasks.time_source import MACHINE
from transports import Clock, discard_broker, reset_broker

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["isolated"]

# What an app makes once and keeps.
MADE = ("amqp", "control", "events", "dead_letter_policy", "dead_letter_store", "settings")


@contextmanager
def isolated(app: LiapApp, *, clock: Clock | None = None, **settings: Any) -> Iterator[LiapApp]:
    """Let an app have an empty in-process broker and dead-letter store of its own, and give all back at the end.

    clock: the time of the app and its broker, a :class:`WorkerClock` say; default is the machine's. settings: by field
    name, on top of the app's own; without ``dlq_store_url`` dead letters stay in their queue. A broker that is not in
    this process is replaced by ``liap-memory://``. Tasks that are added inside stay in this app, and no other gets
    them. Stop those workers before the end that were started inside. Raises
    RuntimeError when a worker of the app runs now.
    """
    running: list[Any] = [worker for worker in app.embedded_workers if getattr(worker, "running", False)]
    if running:
        raise RuntimeError(f"app {app.main!r} cannot be isolated while its worker runs: stop {running[0].hostname}")
    former, former_clock, shared_tasks = app.settings, app.time_source, app.shares_tasks
    url = f"{_scheme(former, settings)}:///{uuid4().hex}"
    given = {"dlq_store_url": "none", **settings, "message_queue_url": url}
    settings_now = load_settings(**{**former.model_dump(exclude_unset=True), **given})
    before, now = celery_configuration(former), celery_configuration(settings_now)
    changed = {key: value for key, value in now.items() if value != before[key]}
    kept = {key: app.conf[key] for key in changed}
    # What the program has set by itself stays, but for the broker.
    ours = {key for key in changed if key == "broker_url" or kept[key] == before[key]}
    reset_broker(url, clock=clock)
    _go_by(app, settings_now, clock or MACHINE, {key: changed[key] for key in ours})
    app.shares_tasks = False
    if isinstance(clock, WorkerClock):
        clock.watch(app)
    try:
        yield app
    finally:
        _close_pools(url)
        app.shares_tasks = shared_tasks
        _go_by(app, former, former_clock, {key: kept[key] for key in ours})
        discard_broker(url)


def _scheme(former: Settings, settings: dict[str, Any]) -> str:
    asked = settings.get("message_queue_url") or former.broker_url
    if settings.get("message_queue_type") == "priority" or asked.startswith("liap-priority:"):
        return "liap-priority"
    return "liap-memory" if not broker_feature(asked, "in_process") else asked.split(":")[0]


def _go_by(app: LiapApp, settings: Settings, clock: Clock, configuration: dict[str, Any]) -> None:
    app.disconnect()
    for name in MADE:
        app.__dict__.pop(name, None)
    app._local = threading.local()  # type: ignore[attr-defined]  # result backends by thread, not in the stubs
    app._backend_cache = None  # type: ignore[attr-defined]
    app.__dict__["settings"] = settings
    app.time_source = clock
    app.conf.update(configuration)
    for exchange in app.event_exchanges.values():
        exchange.forget_queues()


def _close_pools(url: str) -> None:
    """Close what kombu keeps for the whole process, by broker."""
    for group in (pools.producers, pools.connections):
        for key, pool in list(group.items()):
            connection = pool.connections.connection if group is pools.producers else pool.connection
            if connection.as_uri() == url or connection.virtual_host == url.rpartition("/")[2]:
                pool.force_close_all()
                dict.__delitem__(group, key)
