"""The floor of an idle call with Celery in it: ``python -m benchmarks.peers.celery_relay ROUNDS``.

As in :mod:`benchmarks.peers.relay` four processes wake each other, as caller, broker, worker and child of a call do.
Each does the least that Celery itself has to do there: the caller makes a task message and encodes it, the broker hands
on its bytes, the worker makes a request of it for its pool, the child runs Celery's tracer. No transport, no queue, no
routing, no event loop, no acknowledgement: what they cost comes on top.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery
from celery.app.trace import build_tracer, fast_trace_task, setup_worker_optimizations
from celery.worker.request import Request, create_request_cls
from kombu.message import Message
from kombu.serialization import dumps
from kombu.utils.uuid import uuid

from benchmarks.peers.relay import arrive, hand_on, print_rounds

app = Celery("bench", broker="memory://")
app.conf.update(task_ignore_result=True)
arrived = -1


@app.task(name="bench.note")
def note() -> None:
    arrive(arrived)


def call() -> bytes:
    """Return a call as it leaves its process."""
    made: Any = app.amqp
    message = made.create_task_message(uuid(), note.name, (), {})
    content_type, encoding, body = dumps(message.body, "json")
    properties = {"content_type": content_type, "content_encoding": encoding, **message.properties}
    return pickle.dumps((body, properties, message.headers))


class Pool:
    """A pool as the request of a call sees it: it sends the call to the child."""

    def __init__(self, child: socket.socket) -> None:
        self._child = child

    def apply_async(self, target: Any, args: Any, **_: Any) -> None:
        """Send a call."""
        self._child.send(pickle.dumps(args))


def receive(pool: Pool, request_class: Any, frame: bytes) -> None:
    """Make a request of a call that has arrived, and give it to the pool."""
    body, properties, headers = pickle.loads(frame)
    message: Any = Message(
        body,
        content_type=properties["content_type"],
        content_encoding=properties["content_encoding"],
        properties=properties,
        headers=headers,
        delivery_info={},
    )
    request_class(message, app=app, task=note, decoded=False, body=body, headers=headers).execute_using_pool(pool)


def run(frame: bytes) -> None:
    """Run a call in the child."""
    fast_trace_task(*pickle.loads(frame))


def main(rounds: int) -> None:
    """Fork the broker, the worker and the child, and call."""
    global arrived
    app.finalize()
    note.__trace__ = build_tracer(note.name, note, app.loader, "bench", app=app)
    setup_worker_optimizations(app, "bench")
    came, arrived = os.pipe()
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    (caller, at_broker), (broker, at_worker), (worker, at_child) = pairs
    pool: Any = Pool(worker)
    request_class = create_request_cls(Request, note, pool, "bench", None)
    works: dict[socket.socket, Callable[[bytes], object]] = {
        at_broker: broker.send,
        at_worker: partial(receive, pool, request_class),
        at_child: run,
    }
    told_by = {at_broker: broker, at_worker: worker, at_child: None}
    ends = {end for pair in pairs for end in pair}
    for heard, work in works.items():
        if not os.fork():
            for end in ends - {heard, told_by[heard]}:
                end.close()
            hand_on(heard, work)
            os._exit(0)
    for end in ends - {caller}:
        end.close()
    print_rounds(rounds, lambda: caller.send(call()), came)


if __name__ == "__main__":
    main(int(sys.argv[1]))
