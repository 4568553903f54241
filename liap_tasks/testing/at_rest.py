"""Whether the workers of this process have anything left to do for an app, before time moves on.

At rest: no worker holds a message, except those that wait for their batch; no consumed queue has messages that nobody
has come for; no dead letter is on its way into the store; no task that is acknowledged early is running. A message is
acknowledged only after everything it caused has been published (its retry, its dead letter, the rest of its chain), so
nothing is in between when this says so.

Not looked at: what waits for a delay, a batch or an automatic retry (time must move), threads that tasks leave behind,
workers of other processes.

Why the broker is looked at every now and then instead of being asked to tell: its hot path stays as it is, and a look
takes some microseconds.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from celery.worker.state import active_requests

from liap_tasks.configuration import DEAD_LETTER_QUEUE, broker_feature
from liap_tasks.errors import LiapError
from transports import InvalidArgumentError, get_broker

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["NotAtRestError", "under_way", "wait_until_at_rest"]

PATIENCE = 60.0
FIRST_PAUSE = 0.0005
LAST_PAUSE = 0.02


class NotAtRestError(LiapError, AssertionError):
    """Workers had something to do all the time. Attribute: ``under_way`` (list of texts)."""

    def __init__(self, under_way: list[str], patience: float) -> None:
        super().__init__(under_way, patience)
        self.under_way = under_way
        self.patience = patience

    def __str__(self) -> str:
        return (
            f"after {self.patience:g} s of real time the workers still have something to do: "
            + "; ".join(self.under_way)
            + ". A task that waits for time to pass needs advance(..., settle=False)"
        )


def wait_until_at_rest(app: LiapApp, *, patience: float = PATIENCE) -> None:
    """Return when the embedded workers of an app have done all there is to do now; at once if none runs.

    patience: seconds of real time, then NotAtRestError is raised, naming what is still under way. Raises
    InvalidArgumentError for an app whose broker is not in this process.
    """
    url = app.conf.broker_url
    if not broker_feature(url, "in_process"):
        raise InvalidArgumentError("broker_url", url, "a broker in this process: liap-memory:// or liap-priority://")
    end = time.monotonic() + patience
    pause = FIRST_PAUSE
    while busy := under_way(app):
        if time.monotonic() > end:
            raise NotAtRestError(busy, patience)
        time.sleep(pause)
        pause = min(pause * 1.3, LAST_PAUSE)


def under_way(app: LiapApp) -> list[str]:
    """Return, in words, what the embedded workers of an app have to do now; empty: they are at rest."""
    workers: list[Any] = [worker for worker in app.embedded_workers if getattr(worker, "running", False)]
    if not workers:
        return []
    in_batches = sum(worker.waiting_for_batch for worker in workers)
    consumed = {name for worker in workers for name in worker.queues or app.amqp.queues.consume_from}
    broker = get_broker(app.conf.broker_url)
    with broker.lock:
        numbers = broker.engine.statistics()
    held: Counter[str] = Counter()
    busy: list[str] = []
    for name in consumed:
        if name in numbers:
            held[name] = numbers[name].unacked
            if numbers[name].ready and not numbers[name].consumers:
                busy.append(f"nobody consumes queue {name!r} yet, which has {numbers[name].ready} messages")
    if held.total() != in_batches or in_batches != sum(worker.waiting_for_batch for worker in workers):
        busy += [f"{count} messages of queue {name!r} are being processed" for name, count in held.items() if count]
        busy = busy or ["a batch is about to begin"]
    letters = numbers.get(DEAD_LETTER_QUEUE)
    if letters is not None and app.settings.dlq_store_url != "none" and letters.ready + letters.unacked:
        busy.append(f"{letters.ready + letters.unacked} dead letters are not in the store yet")
    return busy + [f"task {name} is running" for name in _running_though_acknowledged(app)]


def _running_though_acknowledged(app: LiapApp) -> list[str]:
    while True:
        try:
            return [request.name for request in active_requests if request.app is app and request.acknowledged]
        except RuntimeError:  # the set has just grown
            continue
