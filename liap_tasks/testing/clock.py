"""A virtual clock that lets workers finish before time moves on."""

from __future__ import annotations

import time
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from liap_tasks.testing.at_rest import PATIENCE, wait_until_at_rest
from transports import VirtualClock

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["WorkerClock"]


class WorkerClock(VirtualClock):
    """The time of apps under test: it stands still until :meth:`advance` moves it.

    start: POSIX seconds it begins at; default is the machine's time now. patience: seconds of real time that workers
    may take to come to rest.
    """

    def __init__(self, start: float | None = None, *, patience: float = PATIENCE) -> None:
        super().__init__(time.time() if start is None else start)
        self.patience = patience
        self._apps: weakref.WeakSet[LiapApp] = weakref.WeakSet()

    def watch(self, app: LiapApp) -> None:
        """Wait for this app's workers, too (held weakly). :func:`isolated` does this."""
        self._apps.add(app)

    def settle(self) -> None:
        """Return when the embedded workers have done everything there is to do at this time.

        Raises NotAtRestError when they have not within ``patience`` seconds of real time.
        """
        for app in list(self._apps):
            wait_until_at_rest(app, patience=self.patience)

    def advance(  # type: ignore[override]  # narrower on purpose: what it does before each step is settling
        self, seconds: float, *, settle: bool = True
    ) -> None:
        """Move time forward by ``seconds`` (>= 0), through every moment at which something is due, in order.

        At each of them what is due is done, and the workers finish what that has started before time moves to the
        next: a task that is retried after 1, 2 and 4 s has had all four attempts when ``advance(7)`` returns, each at
        its own second. With ``settle=False`` time moves without waiting for workers, in between and at the end; that
        is for tasks that are meant to run out of time.
        Raises ValueError for a negative step; NotAtRestError, see :meth:`settle`.
        """
        if settle:
            super().advance(seconds, before_each=self.settle)
            self.settle()
        else:
            super().advance(seconds)

    def advance_to(self, moment: datetime, *, settle: bool = True) -> None:
        """Move time forward to a moment (UTC unless it says otherwise). Raises ValueError for one that has passed."""
        when = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        self.advance(when.timestamp() - self.time(), settle=settle)
