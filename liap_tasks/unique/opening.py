"""Which place keeps the locks: the one that UNIQUE_STORE_URL names, else one that everybody has who has the broker.

An in-process broker: the memory of its process. Redis: the same Redis. Any other, whose clients share nothing else: the
database of the dead letters. With a SQLite file, publishers and workers must mean the same file, on one machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from liap_tasks.dead_letter_store.database import check_store_url
from liap_tasks.errors import ConfigurationError
from liap_tasks.unique.lock import UniqueStore
from liap_tasks.unique.memory import memory_store
from liap_tasks.unique.redis import RedisStore
from liap_tasks.unique.sql import SqlStore
from transports import get_broker

if TYPE_CHECKING:
    from liap_tasks.settings import Settings

__all__ = ["ALLOWED", "check_unique_store_url", "open_store", "store_url"]

VARIABLE = "UNIQUE_STORE_URL"
ALLOWED = "memory://, sqlite:///file, postgresql://user:password@host/database or redis://host:port/number"
MEMORY = "memory://"


def check_unique_store_url(url: str) -> None:
    """Raise ConfigurationError for a URL that no store can be opened with, or whose driver is not installed."""
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss", "unix"):
        if find_spec("redis") is None:
            raise ConfigurationError(VARIABLE, url, "another store, or Redis after `pip install 'liap-tasks[redis]'`")
    elif scheme != "memory":
        check_store_url(url, variable=VARIABLE, allowed=ALLOWED)


def store_url(settings: Settings, *, in_process: bool) -> str:
    """Return the URL of the store; in_process: whether the broker lives in this process.

    Raises ConfigurationError when there is none to choose, or memory is chosen for a broker that others share.
    """
    url = settings.unique_store_url
    if url is None:
        if in_process:
            return MEMORY
        if urlsplit(settings.broker_url).scheme in ("redis", "rediss"):
            return settings.broker_url
        url = settings.dlq_store_url
        if url == "none":
            raise ConfigurationError(VARIABLE, None, "with DLQ_STORE_URL=none a unique task needs " + ALLOWED)
    if not in_process and (url.startswith(MEMORY) or url in ("sqlite://", "sqlite:///:memory:")):
        raise ConfigurationError(
            VARIABLE, url, "memory only for a broker in this process: others share this one. Use " + ALLOWED
        )
    return url


def open_store(url: str, *, broker_url: str = "", clock: Callable[[], float] | None = None) -> UniqueStore:
    """Return the store at ``url``; it connects when it is first used.

    broker_url: whose locks, for ``memory://``. clock: POSIX seconds, of tests; None: the server's or the machine's own.
    """
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        return memory_store(get_broker(broker_url), clock=clock or time.time)
    if scheme in ("redis", "rediss", "unix"):
        return RedisStore(url, clock=clock)
    return SqlStore(check_store_url(url, variable=VARIABLE, allowed=ALLOWED), clock=clock)
