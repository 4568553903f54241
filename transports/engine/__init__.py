"""An AMQP 0-9-1 broker core in pure Python: no threads, no sockets, no imports beyond the standard library.

What exists, what comes in, and who gets it are three layers of one class::

    topology.py (exchange.py, topic.py)  <-  publishing.py (dead_letter.py)  <-  broker.py (channel.py, consumer.py)

and a message's way inside a queue is ``message.py -> queue.py -> ready.py``, with ``due.py`` for what is timed. What
must outlive the broker is told to a journal (``journal.py``).
"""

from transports.engine.arguments import KNOWN_ARGUMENTS, OVERFLOW_RULES, QueueArguments, parse_arguments
from transports.engine.broker import Broker, Got
from transports.engine.channel import Channel, ClientConnection, Sink
from transports.engine.clock import Clock, SystemClock, VirtualClock
from transports.engine.consumer import Consumer
from transports.engine.errors import ChannelRefusal, EngineError, InvalidArgument, QueueFull, WouldBlock
from transports.engine.journal import Journal, QueueLog
from transports.engine.message import Entry, Message
from transports.engine.statistics import QueueStatistics
from transports.engine.topic import TopicTrie
from transports.engine.topology import DeclaredQueue

__all__ = [
    "KNOWN_ARGUMENTS",
    "OVERFLOW_RULES",
    "Broker",
    "Channel",
    "ChannelRefusal",
    "ClientConnection",
    "Clock",
    "Consumer",
    "DeclaredQueue",
    "EngineError",
    "Entry",
    "Got",
    "InvalidArgument",
    "Journal",
    "Message",
    "QueueArguments",
    "QueueFull",
    "QueueLog",
    "QueueStatistics",
    "Sink",
    "SystemClock",
    "TopicTrie",
    "VirtualClock",
    "WouldBlock",
    "parse_arguments",
]
