"""The same two tasks on Dramatiq over RabbitMQ."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.peers.marks import mark, stamp

__all__ = ["broker", "count", "note"]

URL = os.environ["LIAP_BENCH_BROKER"]
if URL.endswith("//"):  # kombu's way to write the virtual host "/"
    URL = f"{URL[:-1]}%2F"
broker = RabbitmqBroker(url=URL)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="bench")
def count(number: int, text: str = "") -> None:
    mark()


@dramatiq.actor(queue_name="bench")
def note() -> None:
    stamp()
