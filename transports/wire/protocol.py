"""The protocol between a served broker and its clients, version 1.

Every frame is an array whose first item is its kind. A client opens with HELLO; the broker answers WELCOME, or GOODBYE
with a reason, and closes. After that both send as they like::

    client                                              broker
    HELLO   magic, version, options                     WELCOME   version, facts
    CALL    call id, channel, operation, arguments      ANSWER    call id, result
                                                        FAILURE   call id, error
    PUBLISH channel, number, mandatory, persistent,     CONFIRM   channel, number
            exchange, routing key, priority,            REFUSAL   channel, number, error
            expiration, rules, wait, content, body      RETURN    channel, exchange, routing key, content, body
    ACK     channel, tag, multiple                      DELIVERY  channel, consumer tag, delivery tag, redelivered,
    REJECT  channel, tag, multiple, requeue                       returns, exchange, routing key, content, body
                                                        CANCEL    channel, consumer tag
    PING / PONG                                         PING / PONG
    GOODBYE                                             GOODBYE   reason

Publishes of one channel are taken in order. Their numbers rise; 0 asks for no confirmation. CONFIRM n says that every
publish up to n that was not refused is in its queues (and in the journal, if there is one); REFUSAL n comes before any
CONFIRM beyond n. ``wait``: seconds a publisher may be kept waiting for room in a queue with ``x-overflow: block``.
A client with at most :data:`MOST_WAITING` publishes, and :data:`MOST_WAITING_BYTES`, unconfirmed on each channel is
read on whatever waits for room.
``content``: properties and headers (see :mod:`transports.wire.content`). ``rules``: the headers that queues ask for,
also where the content has them, or nil. A delivery's ``returns`` is nil where the queue has no delivery limit.

A table (of arguments, of rules) has names, and values that are None, a bool, a number, text, bytes, or lists and tables
of these, at most :data:`MOST_NESTED` one in the other: what a journal can write and read back.

Errors travel as arrays, see :mod:`transports.wire.refusals`. Operations are those of an AMQP channel and are listed,
with the types of their arguments, in :data:`OPERATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = [
    "ACK",
    "ANSWER",
    "CALL",
    "CANCEL",
    "CONFIRM",
    "DELIVERY",
    "FAILURE",
    "GOODBYE",
    "HELLO",
    "MAGIC",
    "LENGTHS",
    "MOST_WAITING",
    "MOST_WAITING_BYTES",
    "OPERATIONS",
    "PING",
    "PONG",
    "PUBLISH",
    "ProtocolError",
    "REFUSAL",
    "REJECT",
    "RETURN",
    "VERSION",
    "WELCOME",
    "fits",
    "is_table",
]

MAGIC = "liap-broker"
VERSION = 1

# From the client.
HELLO, CALL, PUBLISH, ACK, REJECT = 0, 1, 2, 3, 4
# From the broker.
WELCOME, ANSWER, FAILURE, CONFIRM, REFUSAL, RETURN, DELIVERY, CANCEL = 10, 11, 12, 13, 14, 15, 16, 17
# From both.
PING, PONG, GOODBYE = 20, 21, 22

#: How many items a frame from a client has.
LENGTHS = {HELLO: 4, CALL: 5, PUBLISH: 13, ACK: 4, REJECT: 5, PING: 1, PONG: 1, GOODBYE: 1}


class ProtocolError(Exception):
    """The other side says what it may not; the text says what."""


#: A channel may have so much standing in line for room; then its client is not read until some has gone.
MOST_WAITING = 1_000
MOST_WAITING_BYTES = 8 * 1024 * 1024

_TABLE = (dict, type(None))
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})

#: How many lists and tables may stand one in the other.
MOST_NESTED = 64

#: operation: the types of its arguments.
OPERATIONS: dict[str, tuple[Any, ...]] = {
    # channel 0
    "open_channel": (int,),
    # a channel's own
    "close_channel": (list,),  # delivery tags that nobody has seen
    "declare_exchange": (str, str, bool, bool, bool, bool, _TABLE),  # type, passive, durable, auto-delete, internal
    "delete_exchange": (str, bool),  # if unused
    "bind_exchange": (str, str, str, _TABLE),  # destination, source, routing key
    "unbind_exchange": (str, str, str, _TABLE),
    "declare_queue": (str, bool, bool, bool, bool, _TABLE),  # passive, durable, exclusive, auto-delete
    "bind_queue": (str, str, str, _TABLE),  # queue, exchange, routing key
    "unbind_queue": (str, str, str, _TABLE),
    "purge_queue": (str,),
    "delete_queue": (str, bool, bool),  # if unused, if empty
    "consume": (str, str, bool, bool, _TABLE),  # queue, consumer tag, no ack, exclusive
    "cancel": (str,),
    "undeliver": (list,),  # delivery tags that nobody has seen
    "get": (str, bool),  # no ack
    "recover": (list,),  # delivery tags that nobody has seen
    "qos": (int, bool),  # prefetch count, for the channel
    "flow": (bool,),
    # looking in
    "queue_stats": ((str, type(None)),),
    "peek": (str, int),
    "delayed": (str, (list, type(None))),  # queue, where the page before ended
    "cancel_delayed": (str, str),  # queue, message id
    "reschedule": (str, str, (int, float)),  # queue, message id, seconds
    "broker_stats": (),
}


def fits(values: list[Any], types: tuple[Any, ...]) -> bool:
    """Tell whether values have these types; a bool is no int here, a list is one of numbers."""
    return len(values) == len(types) and all(
        isinstance(value, expected) and (type(value) not in _NARROW or _NARROW[type(value)](value, expected))
        for value, expected in zip(values, types, strict=True)
    )


_NARROW: dict[type, Callable[[Any, Any], bool]] = {
    bool: lambda value, expected: expected is bool,
    list: lambda value, expected: all(type(one) in (int, float) for one in value),
    dict: lambda value, expected: is_table(value),
}


def is_table(value: dict[Any, Any]) -> bool:
    """Tell whether a dictionary is what the protocol calls a table."""
    return _is_allowed(value, MOST_NESTED)


def _is_allowed(value: Any, room: int) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is dict:
        return room > 0 and all(type(name) is str and _is_allowed(one, room - 1) for name, one in value.items())
    return kind is list and room > 0 and all(_is_allowed(one, room - 1) for one in value)
