"""What a worker says when it starts, where silence would mislead."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger
from kombu.utils.url import maybe_sanitize_url

from liap_tasks.configuration import broker_feature, is_redis

__all__ = ["SaysWhoSharesTheBroker"]

logger = get_logger("liap_tasks.worker")


class SaysWhoSharesTheBroker(bootsteps.StartStopStep):
    """Warn, in one line, that a stand-alone worker on an in-process broker will never get a message."""

    def start(self, parent: Any) -> None:
        """Called when the worker starts."""
        url = parent.app.conf.broker_url
        if broker_feature(url, "in_process") and not getattr(parent, "embedded", False):
            logger.warning(
                "this worker shares its broker %s with no other process: it will only see what its own tasks send. "
                "Run it inside the publishing program (liap_tasks.EmbeddedWorker), or let the processes of this user "
                "share a broker: unset MESSAGE_QUEUE_URL",
                url,
            )
        elif is_redis(url):
            visible: Any = parent.app.conf.broker_transport_options.get("visibility_timeout", 3600)
            logger.warning(
                "kombu's redis transport honours neither bounds nor TTL nor dead-letter exchanges of queues: %s keeps "
                "task-side dead letters only. What a killed worker held comes back after visibility_timeout, %s s, and "
                "what a worker holds for longer goes to another, too. MESSAGE_QUEUE_TYPE=rabbitmq honours all of them",
                maybe_sanitize_url(url),
                visible,
            )

    def stop(self, parent: Any) -> None:
        """Nothing to end."""
