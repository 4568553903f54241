"""Event versions: how an event written by an older program is read by this one.

Each change of the envelope raises ``SCHEMA_VERSION`` and adds the step that leads from the version before it. An
event is brought up to date wherever one is read: when a subscriber gets it, when a dead letter is replayed, when
history is played. An event of a later version than this program knows is not guessed at: it becomes a dead letter, to
be replayed when the program has been updated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from liap_tasks.policies.dead_letter import DeadLetter, DeadLetterReason

__all__ = ["SCHEMA_VERSION", "UPCASTERS", "UnknownVersionError", "Upcaster", "upcast"]

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

SCHEMA_VERSION = 1
"""The version this program writes."""

UPCASTERS: Mapping[int, Upcaster] = {}
"""From each older version to the next: ``UPCASTERS[1]`` makes a version 2 of a version 1."""


class UnknownVersionError(DeadLetter):
    """The event is of a version that this program does not know. Attributes: ``version``, ``known`` (the latest)."""

    def __init__(self, version: object, known: int) -> None:
        super().__init__(
            DeadLetterReason.UNKNOWN_VERSION,
            f"schema version {version!r}, but {known} is the latest known here: update the program, then replay",
        )
        self.version = version
        self.known = known


def upcast(
    event: Mapping[str, Any], *, upcasters: Mapping[int, Upcaster] = UPCASTERS, current: int = SCHEMA_VERSION
) -> dict[str, Any]:
    """Return the event as a mapping of the current version; ``event`` itself is not changed.

    Raises UnknownVersionError for a later version, or an older one that nothing leads from.
    """
    read = dict(event)
    version = read.get("schema_version", 1)
    while version != current:
        step = upcasters.get(version) if isinstance(version, int) else None
        if step is None:
            raise UnknownVersionError(version, current)
        read = step(read)
        version += 1
        read["schema_version"] = version
    return read
