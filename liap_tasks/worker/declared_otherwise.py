"""What to do about a queue that was declared with other arguments than the settings ask for now.

A durable queue keeps the arguments of its first declaration, in the broker's journal too: a setting that decides one of
them cannot be changed while the queue is there. The broker names queue and argument (RabbitMQ's words, and ours); which
setting that is, only this side knows.
"""

from __future__ import annotations

import re

__all__ = ["advice"]

REFUSAL = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for queue '(?P<queue>.+)' in vhost '.*?': (?P<difference>.*)"
)
SETTINGS = {
    "x-max-length": "MAX_QUEUE_SIZE",
    "x-message-ttl": "DEFAULT_MESSAGE_TTL",
    "x-deduplication-window": "DEDUP_WINDOW_SECONDS",
    "x-max-priority": "MESSAGE_QUEUE_TYPE",
}


def advice(refusal: str) -> str | None:
    """Return one line for a broker's refusal of a declaration, None for a refusal of something else."""
    found = REFUSAL.search(refusal)
    if found is None:
        return None
    argument, queue = found["argument"], found["queue"]
    setting = SETTINGS.get(argument)
    decided = f" (setting {setting})" if setting else ""
    back = f"set {setting} back" if setting else "declare it as before"
    difference = " ".join(found["difference"].split())
    return (
        f"queue {queue!r} is there with another {argument}{decided}: {difference}. Either {back}, or delete the queue "
        f"when it is empty: celery -A APP amqp queue.delete {queue} false true"
    )
