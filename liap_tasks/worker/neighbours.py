"""Workers on the served broker meet as they do on RabbitMQ: mingle when they start, gossip while they run.

Celery lets them only on transports that it knows by name (celery 5.7, ``Mingle`` and ``Gossip``, an attribute of the
class): those that reach other workers by a fanout. The served broker does; one inside a process has no other workers.
"""

from __future__ import annotations

from celery.worker.consumer.gossip import Gossip
from celery.worker.consumer.mingle import Mingle

__all__ = ["let_workers_meet"]

SERVED = frozenset({"liap-broker", "liap-broker-priority"})


def let_workers_meet() -> None:
    """Tell Celery that workers on the served broker can meet; to be called before a consumer is made."""
    for step in (Mingle, Gossip):
        step.compatible_transports = step.compatible_transports | SERVED
