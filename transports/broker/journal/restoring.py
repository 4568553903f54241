"""From what a journal's files say to what a broker takes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from transports.broker.journal.definitions import Definition
from transports.broker.journal.queue_log import FileQueueLog
from transports.broker.journal.records import DELAYED, REDELIVERED, STRANDED, TIMED
from transports.broker.journal.replay import UNREADABLE, Found, Replay
from transports.engine import Entry, QueueArguments
from transports.engine.dead_letter import Stranded
from transports.engine.journal import StoredBinding, StoredExchange, StoredHost, StoredQueue
from transports.engine.message import DELAYED as IS_DELAYED

__all__ = ["LeftOut", "stored_hosts"]


class LeftOut(NamedTuple):
    """A message that cannot be understood. queue: its queue's name. name: what the journal calls it."""

    queue: str
    name: int
    reason: str


def stored_hosts(
    replay: Replay, offset: float, log_of: Callable[[Definition], FileQueueLog]
) -> tuple[dict[str, StoredHost], list[LeftOut]]:
    """Return what survives of each virtual host, and which messages cannot be understood, emptying ``replay``.

    offset: POSIX time minus the clock's reading. log_of: returns the log of a queue that is defined.
    """
    hosts: dict[str, StoredHost] = {}
    left_out: list[LeftOut] = []

    def host(vhost: str) -> StoredHost:
        return hosts.setdefault(vhost, StoredHost())

    definitions = replay.definitions
    for _, vhost, name, kind, auto_delete, internal, arguments in definitions.exchanges:
        host(vhost).exchanges.append(
            StoredExchange(name=name, kind=kind, auto_delete=auto_delete, internal=internal, arguments=arguments)
        )
    for definition in definitions.queues.values():
        _, vhost, name, number, auto_delete, fields = definition
        log = log_of(definition)
        queue = StoredQueue(name=name, arguments=QueueArguments(**fields), auto_delete=auto_delete, log=log)
        for name, one in replay.entries.pop(number, {}).items():
            try:
                _take_back(queue, log, name, one, offset)
            except UNREADABLE as error:
                left_out.append(LeftOut(queue.name, name, str(error)))
        seen = replay.seen.pop(number, {})
        log.seen.update((key, seen[key] - offset) for key in sorted(seen, key=seen.__getitem__))
        queue.seen.update(log.seen)
        host(vhost).queues.append(queue)
    for _, vhost, source, to_queue, destination, routing_key, arguments in definitions.bindings:
        host(vhost).bindings.append(
            StoredBinding(
                source=source,
                destination=destination,
                to_queue=to_queue,
                routing_key=routing_key,
                arguments=arguments,
            )
        )
    return hosts, left_out


def _take_back(queue: StoredQueue, log: FileQueueLog, name: int, one: Found, offset: float) -> None:
    message = one.message.whole()
    if one.flags & STRANDED:
        letter = Stranded(message, *one.message.letter())
        letter.stored = name
        log.live[name] = letter
        queue.stranded.append(letter)
        return
    entry = Entry(message, one.place, one.since - offset)
    entry.stored = name
    entry.returns = one.returns
    entry.redelivered = one.delivered or bool(one.flags & REDELIVERED)
    if one.flags & DELAYED:
        entry.state = IS_DELAYED
        entry.due = one.time - offset
    elif one.flags & TIMED:
        entry.expires_at = one.time - offset
    log.live[name] = entry
    queue.entries.append(entry)
