"""An AMQP 0-9-1 broker core in pure Python: no threads, no sockets, no imports beyond the standard library.

A message's way through the rooms::

    message.py -> broker.py -> exchange.py, topic.py -> queue.py -> ready.py, due.py -> consumer.py -> channel.py
                      ^                                    |
                      +---------- dead_letter.py <---------+
"""

from transports.engine.arguments import KNOWN_ARGUMENTS, OVERFLOW_RULES, QueueArguments, parse_arguments
from transports.engine.broker import Broker, DeclaredQueue, Got
from transports.engine.channel import Channel, ClientConnection, Sink
from transports.engine.clock import Clock, SystemClock, VirtualClock
from transports.engine.consumer import Consumer
from transports.engine.errors import ChannelRefusal, EngineError, InvalidArgument, QueueFull, WouldBlock
from transports.engine.message import Entry, Message
from transports.engine.statistics import QueueStatistics
from transports.engine.topic import TopicTrie

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
    "Message",
    "QueueArguments",
    "QueueFull",
    "QueueStatistics",
    "Sink",
    "SystemClock",
    "TopicTrie",
    "VirtualClock",
    "WouldBlock",
    "parse_arguments",
]
