"""The queue that a letter is sent to exists before it is sent: a message to a queue that is not there is lost.

Why a queue on an in-process broker is not declared here: if nobody in this process has declared it, then its worker
lives in another process, with a broker of its own, and a message sent from here would go down with this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amqp.exceptions import ChannelError
from kombu import Queue

from liap_tasks.configuration import broker_feature
from liap_tasks.errors import DeadLetterError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["make_ready"]


def make_ready(app: LiapApp, name: str, *, asked_for: bool = False) -> None:
    """Make sure that a queue exists, declaring it as the app configures it if it does not.

    asked_for: somebody has typed this name, so a queue that is neither there nor configured is a mistake.
    Raises DeadLetterError for such a name or none, and for a queue that is missing on an in-process broker; kombu's
    OperationalError when the broker is away.
    """
    if not name:
        raise DeadLetterError("nobody knows which queue the letter was for: name one to send it to")
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        if not _exists(connection, name):
            _declare(app, connection, name, asked_for)


def _exists(connection: Any, name: str) -> bool:
    try:
        with connection.channel() as channel:
            Queue(name, channel=channel).queue_declare(passive=True)
    except ChannelError:
        return False  # if it was something else than its absence, declaring it tells
    return True


def _declare(app: LiapApp, connection: Any, name: str, asked_for: bool) -> None:
    configured = app.amqp.queues.get(name)
    if asked_for and configured is None:
        raise DeadLetterError(f"there is no queue {name!r}, neither on the broker nor in this app's configuration")
    if broker_feature(app.conf.broker_write_url or app.conf.broker_url, "in_process"):
        raise DeadLetterError(
            f"nobody in this process has a queue {name!r}, and {app.conf.broker_url} is shared with no other process: "
            "a letter sent from here would be lost. Replay in the worker's process, after its worker has started, with "
            "liap_tasks.dead_letter_store.operations.replay"
        )
    with connection.channel() as channel:
        (configured or app.missing_queue(name)).bind(channel).declare()
