"""The keys of a call: what it is ordered by (``ordering_key``), and what makes it the same call again (``dedup_key``).

Both are attributes of a task and options of a call. They travel as headers that the broker acts upon, so they need a
broker that can, and a queue declared for it: ours are. Anywhere else a call with such a key is refused, because a key
that is ignored shows only when the order is wrong.

A retry is a message of its own. It takes the place of the one it continues in its group, and it is no duplicate of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

from liap_tasks.configuration import broker_feature
from liap_tasks.dead_letters import CONTINUES_HEADER
from liap_tasks.policies.arguments import arguments_of
from transports import CAPABILITIES, InvalidArgumentError

__all__ = [
    "KEY_HEADERS",
    "Key",
    "check_broker_honours_keys",
    "check_queue_honours_keys",
    "headers_of_keys",
    "headers_of_retry",
    "key_of",
]

Key: TypeAlias = str | Callable[[tuple[Any, ...], dict[str, Any]], object] | None
"""The name of an argument, or a function of (args, kwargs)."""

GROUP_HEADER = "x-group-id"
DEDUPLICATION_HEADER = "x-deduplication-id"


class _Need(NamedTuple):
    """What a header needs: the queue argument, the transports' feature, and the option that asked for it."""

    argument: str
    feature: str
    option: str


_NEEDS = {
    GROUP_HEADER: _Need("x-message-groups", "message_groups", "ordering_key"),
    DEDUPLICATION_HEADER: _Need("x-deduplication-window", "deduplication", "dedup_key"),
}


KEY_HEADERS = frozenset(_NEEDS)


def key_of(function: Callable[..., Any], key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return the key of a call; an argument that is None (a function that returns None) is no key.

    Raises TypeError for arguments that do not fit ``function``, and for a key that is no str, int or UUID; ValueError
    when the function has no argument of that name.
    """
    if key is None:
        return None
    found = key(args, kwargs) if callable(key) else arguments_of(function, args, kwargs, (key,))[key]
    if found is None:
        return None
    if not isinstance(found, str | int | UUID):
        raise TypeError(f"the key of a call must be a str, an int or a UUID, not {found!r}")
    return str(found)


def headers_of_keys(task: str, *, ordering_key: str | None, dedup_key: str | None) -> dict[str, str]:
    """Return the headers of a call with these keys. Groups are common to all tasks of a queue, duplicates are not."""
    headers = {}
    if ordering_key is not None:
        headers[GROUP_HEADER] = str(ordering_key)
    if dedup_key is not None:
        headers[DEDUPLICATION_HEADER] = f"{task}:{dedup_key}"
    return headers


def headers_of_retry(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the headers of the message that continues one with ``headers``."""
    kept = {name: value for name, value in (headers or {}).items() if name != DEDUPLICATION_HEADER}
    if GROUP_HEADER in kept:
        kept[CONTINUES_HEADER] = True
    return kept


def check_broker_honours_keys(task: str, headers: Mapping[str, Any], url: str) -> None:
    """Raise InvalidArgumentError for a key that the broker at ``url`` would ignore.

    A retry may always go where its first attempt was taken: an event's ordering key is no demand.
    """
    if CONTINUES_HEADER in headers:
        return
    for header, need in _NEEDS.items():
        if header in headers and not broker_feature(url, need.feature):
            able = [f"{scheme}://" for scheme, known in CAPABILITIES.items() if getattr(known, need.feature).supported]
            allowed = f"no such key on the broker {urlsplit(url).scheme}://; " + ", ".join(able) + " honour it"
            raise InvalidArgumentError(f"{need.option} of task {task}", headers[header], allowed)


def check_queue_honours_keys(task: str, headers: Mapping[str, Any], queue: Any) -> None:
    """Raise InvalidArgumentError for a key that the queue (kombu's) would ignore, as it is not declared for it."""
    if CONTINUES_HEADER in headers:
        return
    for header, need in _NEEDS.items():
        if header in headers and not (queue.queue_arguments or {}).get(need.argument):
            allowed = f"a queue declared with {need.argument}, which queue {queue.name!r} is not"
            raise InvalidArgumentError(f"{need.option} of task {task}", headers[header], allowed)
