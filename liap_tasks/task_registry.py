"""The registry of an app's tasks, which one thread may read while another adds a task.

Celery goes over the registry of its app in a worker's thread, and ends when a task is added meanwhile (``dictionary
changed size during iteration``, celery 5.7). A worker embedded in a program that still defines tasks meets that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from celery.app.registry import TaskRegistry

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_keys, dict_values

__all__ = ["SteadyTaskRegistry"]


class SteadyTaskRegistry(TaskRegistry):
    """Celery's registry; who goes over it sees the tasks there were when they began."""

    def _now(self) -> dict[str, Any]:
        names = list(dict.keys(self))  # no other thread runs during this call
        found = ((name, self.get(name)) for name in names)
        return {name: task for name, task in found if task is not None}

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def keys(self) -> dict_keys[str, Any]:
        """Return the names of the tasks there are now."""
        return self._now().keys()

    def values(self) -> dict_values[str, Any]:
        """Return the tasks there are now."""
        return self._now().values()

    def items(self) -> dict_items[str, Any]:
        """Return names and tasks as they are now."""
        return self._now().items()
