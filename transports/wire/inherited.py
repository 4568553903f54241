"""What a forked child must not keep of its parent: the files and sockets by which the system tells that one is gone.

A lock, or a connection, ends for the others when its last copy is closed. A child that only sleeps, and knows nothing
of it, would keep it for as long as it lives. So each child closes its copies as soon as it is there, and says no word
to anybody: to the parent nothing happens.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["close_in_children"]


class Inheritable(Protocol):
    """Something with a file that forked children get a copy of."""

    def close_copy(self) -> None:
        """Close this process's copy, and touch nothing that its parent shares. Called in a child that was forked."""


_owners: weakref.WeakSet[Inheritable] = weakref.WeakSet()


def close_in_children(owner: Inheritable) -> None:
    """Have ``owner.close_copy()`` called in each child that this process forks, for as long as the owner is there."""
    _owners.add(owner)


def _close_all() -> None:
    for owner in list(_owners):
        owner.close_copy()
    _owners.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
