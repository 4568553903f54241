"""What a filter sees of a message that is to be routed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Filter", "RoutedMessage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutedMessage:
    """A message on its way to a queue.

    key: what patterns are matched with. payload: of a call its one positional argument, else None; of an event its
    body. args, kwargs: of a call. headers: as given by the publisher. priority: 0 to 255, None if not given.
    """

    key: str
    payload: Any = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None


Filter = Callable[[RoutedMessage], bool]
