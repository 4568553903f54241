"""One process that serves the broker engine to other processes of the machine: ``python -m transports.broker``.

    server.py      the engine's host: virtual hosts, timers, journal, idle exit, shutdown
    session.py     one client: frames in, frames out, back-pressure
    operations.py  the calls of a channel
    publishing.py  publishes, their confirmation, and those that wait for room
    durability.py  nothing is confirmed before it is written; journal/ writes it
    command.py     the program, its options and signals; background.py
    listening.py   sockets that only their owner (or who knows the token) can use
    threaded.py    the same server in a thread of this process, for tests

Nothing here imports kombu or Celery.
"""

from transports.broker.server import BrokerServer
from transports.broker.threaded import BrokerThread

__all__ = ["BrokerServer", "BrokerThread"]
