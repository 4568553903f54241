"""Which calls of a task are the same call, how long one of them keeps the others out, and what the others are told.

A unique call holds the lock of its key. The lock is a lease: it ends by itself, so that nothing stays locked by what
no longer exists. Pure; the locks are in :mod:`liap_tasks.unique`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, get_args
from uuid import UUID

from pydantic import BaseModel

from liap_tasks.policies.arguments import arguments_of
from liap_tasks.policies.durations import Duration, in_seconds

__all__ = ["Unique", "UniqueKey"]

UniqueKey = str | Sequence[str] | Callable[[tuple[Any, ...], dict[str, Any]], object] | None
Until = Literal["done", "started", "running"]
OnConflict = Literal["reject", "return"]

SHORTEST_LEASE = 1.0
LONGEST_LEASE = 24 * 3600.0
MAX_KEY_TEXT = 200
FIRST_WAIT = 0.1
LONGEST_WAIT = 5.0


@dataclass(frozen=True, kw_only=True)
class Unique:
    """At most one call of a task and a key at a time; an attribute of the task: ``@app.task(unique=Unique())``.

    key: what makes two calls the same: None, all arguments; the name of an argument, or several; or a function of
    (args, kwargs), which returns None for a call that is not to be unique.
    until: how long a call keeps the others out: "done", from its publish to its end, retries included; "started", from
    its publish until a worker begins it; "running", only while it runs: any number may be queued, they run one after
    the other.
    on_conflict: what a caller gets whose call is kept out by another: "reject", DuplicateTaskError with the other's
    task id; "return", the other's AsyncResult.
    lease: seconds (or a timedelta) from 1 to a day for which the lock holds without a sign of life. It is renewed while
    the call runs, so this is how long a call whose worker was killed keeps others out if nobody redelivers it.
    queue_lease: seconds for which it holds besides while the call waits to be begun (a delay is added); None: as long
    as it may wait in its queue, DEFAULT_MESSAGE_TTL.
    fail_open: what to do when the locks cannot be reached: False, refuse the call (UniqueStoreError), and let one that
    is in a queue wait; True, go on without a lock.
    Raises ValueError naming the field for a value out of bounds.
    """

    key: UniqueKey = None
    until: Until = "done"
    on_conflict: OnConflict = "reject"
    lease: Duration = 60.0
    queue_lease: Duration | None = None
    fail_open: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("until", get_args(Until)), ("on_conflict", get_args(OnConflict))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        lease = in_seconds("lease", self.lease)
        if not SHORTEST_LEASE <= lease <= LONGEST_LEASE:
            raise ValueError(f"lease must be from {SHORTEST_LEASE:g} to {LONGEST_LEASE:g} s, not {self.lease!r}")
        object.__setattr__(self, "lease", lease)
        if self.queue_lease is not None:
            object.__setattr__(self, "queue_lease", in_seconds("queue_lease", self.queue_lease))
        if not (self.key is None or isinstance(self.key, str) or callable(self.key)):
            object.__setattr__(self, "key", tuple(self.key))
            if not self.key or not all(isinstance(name, str) for name in self.key):
                raise ValueError(f"key must be names of arguments or a function, not {self.key!r}")

    @property
    def lease_seconds(self) -> float:
        """The lease of a call that runs, in seconds."""
        return in_seconds("lease", self.lease)

    def seconds_until_begun(self, *, delay: float, ttl: float) -> float:
        """Return the lease of a call that is published now.

        delay: seconds until it may be delivered. ttl: seconds it may wait then, unless ``queue_lease`` says otherwise.

        Worked example: lease 60, delay 30, ttl 300 -> 390 s.
        """
        waits = ttl if self.queue_lease is None else in_seconds("queue_lease", self.queue_lease)
        return max(0.0, delay) + waits + self.lease_seconds

    def seconds_to_next_look(self, looks: int) -> float:
        """Return how long a call waits that has found its key held by another ``looks`` times before.

        Worked example: 0, 1, 2 looks -> 0.1, 0.2, 0.4 s; at most 5 s.
        """
        return float(min(FIRST_WAIT * 2.0 ** min(looks, 10), LONGEST_WAIT))

    def key_of(
        self, task: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> str | None:
        """Return the key of a call of ``task``, None for one that is not unique.

        The same whether an argument is given by position, by keyword or by its default, and in every process. A long
        key is replaced by its SHA-256. Raises TypeError for arguments that do not fit ``function``, or whose value has
        no text that is the same everywhere; ValueError for a name that is no argument.
        """
        if callable(self.key):
            chosen = self.key(tuple(args), dict(kwargs))
            if chosen is None:
                return None
        else:
            names = (self.key,) if isinstance(self.key, str) else self.key
            chosen = arguments_of(function, args, kwargs, names)
        try:
            text = json.dumps(chosen, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"the arguments of {task} give no unique key: {error}; name those that do in key="
            ) from error
        if len(text) > MAX_KEY_TEXT:
            text = hashlib.sha256(text.encode()).hexdigest()
        return f"{task}:{text}"


def _plain(value: object) -> object:
    """Return a value of which JSON can make the text that stands for ``value`` in a key."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID | Decimal):
        return str(value)
    raise TypeError(f"{value!r} is of type {type(value).__name__}")
