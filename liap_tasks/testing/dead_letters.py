"""The dead letters of an app, to be asserted on: those in its store, and those that still wait in their queue."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from liap_tasks.configuration import dead_letter_queue
from liap_tasks.dead_letter_store import Letter, LetterFilter
from liap_tasks.dead_letter_store.call import Call, call_of
from liap_tasks.dead_letter_store.reading import LetterReader
from liap_tasks.policies import DeadLetterReason

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["DeadLetters"]

MOST = 10_000
PAUSE = 0.002


class DeadLetters(Sequence[Letter]):
    """The letters that wait now, oldest first: dead, or scheduled for an automatic retry. At most 10,000.

    Reads anew whenever it is used. A failing assertion on it shows them, one a line.
    """

    def __init__(self, app: LiapApp) -> None:
        self._app = app

    def of(
        self, *, task: str | None = None, reason: DeadLetterReason | str | None = None, state: str | None = None
    ) -> list[Letter]:
        """Return the letters of a task, of a reason, or in a state (default: those that wait), oldest first."""
        states = ("dead", "scheduled") if state is None else (state,)
        return [
            letter
            for letter in self._all()
            if letter.state in states and task in (None, letter.task) and reason in (None, letter.reason)
        ]

    def wait(
        self,
        *,
        task: str | None = None,
        reason: DeadLetterReason | str | None = None,
        state: str | None = None,
        timeout: float = 60.0,
    ) -> Letter:
        """Return the oldest such letter as soon as there is one.

        timeout: seconds of real time, then AssertionError is raised, showing the letters there are.
        """
        end = time.monotonic() + timeout
        while True:
            found = self.of(task=task, reason=reason, state=state)
            if found:
                return found[0]
            if time.monotonic() > end:
                raise AssertionError(f"no such dead letter within {timeout:g} s (task {task}, reason {reason}): {self}")
            time.sleep(PAUSE)

    def call_of(self, letter: Letter) -> Call:
        """Return the call that a letter is of: ``args`` and ``kwargs``. Raises ValueError for one that has none."""
        call = call_of(letter.body)
        if call is None:
            raise ValueError(f"letter {letter.id} is no call: {letter.body[:80]!r}")
        return call

    def _all(self) -> list[Letter]:
        app = self._app
        letters = {letter.id: letter for letter in self._in_queue()}  # first: they move from here to the store
        if app.settings.dlq_store_url != "none" and app.dead_letter_store.exists():
            letters.update({one.id: one for one in app.dead_letter_store.list(LetterFilter(), limit=MOST)})
        return sorted(letters.values(), key=lambda letter: letter.died_at)

    def _in_queue(self) -> list[Letter]:
        app = self._app
        reader = LetterReader(app.dead_letter_policy_of, app.event_exchanges, app.time_source.time)
        with app.connection_for_read() as connection, connection.channel() as channel:
            queue = dead_letter_queue().bind(channel)
            queue.declare()
            peeking: Any = channel
            return [reader.letter(message) for message in peeking.peek(queue.name, MOST)]

    # -- as a sequence -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.of())

    def __iter__(self) -> Iterator[Letter]:
        return iter(self.of())

    @overload
    def __getitem__(self, index: int) -> Letter: ...

    @overload
    def __getitem__(self, index: slice) -> list[Letter]: ...

    def __getitem__(self, index: int | slice) -> Letter | list[Letter]:
        return self.of()[index]

    def __repr__(self) -> str:
        lines = [
            f"  {letter.reason}: {letter.task or 'no task'} from {letter.queue or 'nowhere'}"
            f" ({letter.exception or letter.detail}{': ' + letter.message if letter.message else ''})"
            for letter in self.of()
        ]
        return "\n".join(["dead letters:", *lines]) if lines else "no dead letters"
