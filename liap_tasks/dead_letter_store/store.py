"""The store of dead letters: what happens to them is a row that changes, in SQLite or PostgreSQL.

Plain SQL by SQLAlchemy Core, batches by ``executemany``. Safe for threads and for several processes: whoever wants to
do something with a letter outside the database (send it) claims it first, for a while. A claim is the claimant's name
and an end; after the end anybody may claim the letter again, so a process that was killed holds up nothing.

Left out: what to send and when to give up (replay.py), and when a letter is due (policies/dead_letter.py).
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from liap_tasks.dead_letter_store.database import WRITING, check_store_url, open_database
from liap_tasks.dead_letter_store.letter import AuditEntry, Letter, LetterFilter, LetterState, StoreStatistics
from liap_tasks.dead_letter_store.migrations import migrate
from liap_tasks.dead_letter_store.rows import letter_from, row_from, structure_from, structure_text
from liap_tasks.dead_letter_store.schema import AUDIT, LETTERS
from liap_tasks.dead_letter_store.selection import condition, page
from liap_tasks.errors import LetterInUseError, LetterNotFoundError, StoreVersionError

__all__ = ["STORE_ERRORS", "DeadLetterStore"]

# The database is away, out of room, locked or too new: nothing to be done but wait.
STORE_ERRORS = (sa.exc.SQLAlchemyError, StoreVersionError)

STEP = 2000  # rows
WAITING = (LetterState.DEAD, LetterState.SCHEDULED)
DROPPED = {"body": b"", "headers": "{}", "properties": "{}", "traceback": None, "due_at": None, "expires_at": None}

Letters = list[Letter]  # inside the class below the name ``list`` is a method
AuditEntries = list[AuditEntry]
Progress = Callable[[int], object] | None

_table = LETTERS.c


class DeadLetterStore:
    """The letters in one database.

    url: ``sqlite:///file`` or ``postgresql://...``. Nothing is opened or made before the first call; that makes or
    migrates the tables. clock: POSIX seconds. Raises ConfigurationError for a URL that cannot be used; calls raise
    SQLAlchemy's errors when the database is away, and StoreVersionError when it is newer than this package.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.url = check_store_url(url)
        self.clock = clock
        # By process: neither a connection nor a lock that somebody holds is for a forked child.
        self._opening: dict[int, threading.Lock] = {}
        self._opened: tuple[int, sa.Engine] | None = None

    def exists(self) -> bool:
        """Tell whether there may be letters: False for a SQLite file that nobody has made yet."""
        name = self.url.database
        return (
            self.url.get_backend_name() != "sqlite" or self._opened is not None or bool(name and os.path.exists(name))
        )

    def ping(self) -> None:
        """Return if the database can be reached; raise what it raises if not."""
        with self._read() as connection:
            connection.scalar(sa.select(sa.literal(1)))

    # -- recording and looking ---------------------------------------------------------------------------------

    def record(self, letters: Iterable[Letter]) -> int:
        """Write letters in one transaction and return how many are new; a known one is only seen again."""
        now = self.clock()
        rows = {letter.id: row_from(letter, now) for letter in letters}
        if not rows:
            return 0
        with self._write() as connection:
            # Always in the same order, so that two recorders never wait for each other crosswise.
            values = [rows[key] for key in sorted(rows)]
            new: int = connection.execute(
                self._insert(), values, execution_options={"preserve_rowcount": True}
            ).rowcount
            if new < len(rows):
                seen = sa.update(LETTERS).where(_table.id == sa.bindparam("key")).values(last_seen=now)
                connection.execute(seen, [{"key": row["id"]} for row in values])
            children = [{"parent": row["replayed_from"], "child": row["id"]} for row in values if row["replayed_from"]]
            if children:
                parent = sa.update(LETTERS).where(_table.id == sa.bindparam("parent"))
                connection.execute(parent.values(replayed_as=sa.bindparam("child")), children)
        return new

    def get(self, letter_id: str) -> Letter:
        """Return one letter. Raises LetterNotFoundError."""
        with self._read() as connection:
            return self._get(connection, letter_id)

    def list(
        self,
        where: LetterFilter | None = None,
        *,
        limit: int = 100,
        after: str | None = None,
        newest_first: bool = False,
    ) -> Letters:
        """Return a page of letters in order of death; ``after`` is the id of the last one of the page before."""
        with self._read() as connection:
            place = None
            if after is not None:
                found = connection.execute(sa.select(_table.died_at, _table.seq).where(_table.id == after)).first()
                if found is None:
                    raise LetterNotFoundError(after)
                place = (found.died_at, found.seq)
            query = page(where or LetterFilter(), limit=limit, after=place, newest_first=newest_first)
            return [letter_from(row) for row in connection.execute(query).mappings()]

    def count(self, where: LetterFilter | None = None) -> int:
        """Return how many letters there are."""
        query = sa.select(sa.func.count()).select_from(LETTERS).where(condition(where or LetterFilter()))
        with self._read() as connection:
            return int(connection.scalar(query) or 0)

    def stats(self, where: LetterFilter | None = None) -> StoreStatistics:
        """Return how many letters there are by state, reason, task and queue; of those in ``where`` if given."""
        chosen = sa.true() if where is None else condition(where)
        states = sa.select(_table.state, sa.func.count()).where(chosen).group_by(_table.state)
        with self._read() as connection:
            by_state = connection.execute(states).all()
            tasks, queues = (self._tally(connection, column, chosen) for column in (_table.task, _table.queue))
            oldest = [
                connection.scalar(sa.select(sa.func.min(_table.died_at)).where(_table.state == state, chosen))
                for state in WAITING
            ]
        by_task: Counter[str] = Counter()
        by_queue: Counter[str] = Counter()
        by_reason: Counter[str] = Counter()
        for task, reason, number in tasks:
            by_task[task or ""] += number
            by_reason[reason] += number
        for queue, _, number in queues:
            by_queue[queue] += number
        return StoreStatistics(
            total=by_task.total(),
            by_state=dict(by_state),
            by_reason=dict(by_reason),
            by_task=dict(by_task),
            by_queue=dict(by_queue),
            oldest=min((time for time in oldest if time is not None), default=None),
        )

    # -- replay ------------------------------------------------------------------------------------------------

    def claim(self, where: LetterFilter, *, claimant: str, lease: float, limit: int = 100) -> Letters:
        """Claim up to ``limit`` letters that wait and return them, oldest first; nobody else gets them meanwhile.

        Only letters that are dead or scheduled can be claimed. claimant: a name that nobody else uses. lease: seconds,
        above 0, after which the letters are free again. limit: at most 2000 at once.
        On PostgreSQL letters that another transaction is about to claim are passed over without waiting.
        """
        now, limit = self.clock(), min(limit, STEP)
        taken: Letters = []
        with self._write() as connection:
            for state in WAITING:
                if state not in where.chosen_states or len(taken) >= limit:
                    continue
                chosen = sa.select(_table.seq).where(_table.state == state, condition(where), self._free(now))
                chosen = chosen.order_by(_table.died_at, _table.seq).limit(limit - len(taken))
                chosen = chosen.with_for_update(skip_locked=True)  # SQLite has no such clause and needs none
                claim = sa.update(LETTERS).where(_table.seq.in_(connection.scalars(chosen).all()))
                rows = connection.execute(
                    claim.values(claimed_by=claimant, claimed_until=now + lease).returning(LETTERS)
                ).mappings()
                taken += [letter_from(row) for row in sorted(rows, key=lambda row: (row["died_at"], row["seq"]))]
        return taken

    def mark_replayed(self, ids: Sequence[str], *, claimant: str, replay_id: str) -> int:
        """Note that claimed letters have been sent; return how many were still this claimant's."""
        return self._end_claim(
            ids, claimant, state=LetterState.REPLAYED, replayed_at=self.clock(), replay_id=replay_id, due_at=None
        )

    def release(self, ids: Sequence[str], *, claimant: str) -> int:
        """Give claimed letters back unsent; return how many were still this claimant's."""
        return self._end_claim(ids, claimant)

    def came_back(self, replay_id: str) -> dict[str, int]:
        """Return how many letters of a replay died again of what they had died of, by exception (or reason)."""
        child = LETTERS.alias()
        died_of = sa.func.coalesce(child.c.exception, child.c.reason)
        query = (
            sa.select(died_of, sa.func.count())
            .select_from(LETTERS.join(child, child.c.replayed_from == _table.id))
            .where(_table.replay_id == replay_id, died_of == sa.func.coalesce(_table.exception, _table.reason))
            .group_by(died_of)
        )
        with self._read() as connection:
            return {str(error): int(number) for error, number in connection.execute(query)}

    # -- automatic retry ---------------------------------------------------------------------------------------

    def schedule(self, where: LetterFilter, due_at: float) -> int:
        """Let waiting letters be replayed by themselves at ``due_at``; return how many."""
        return self._change(where, WAITING, state=LetterState.SCHEDULED, due_at=due_at)

    def cancel_schedule(self, where: LetterFilter, *, progress: Progress = None) -> int:
        """Let scheduled letters wait for somebody instead; return how many. progress: called with how many so far."""
        return self._change(where, (LetterState.SCHEDULED,), progress, state=LetterState.DEAD, due_at=None)

    def next_due(self) -> float | None:
        """Return when the next scheduled letter is due, None if there is none."""
        query = sa.select(sa.func.min(_table.due_at)).where(
            _table.state == LetterState.SCHEDULED, _table.due_at.is_not(None)
        )
        with self._read() as connection:
            due: float | None = connection.scalar(query)
            return due

    # -- the end -----------------------------------------------------------------------------------------------

    def next_expiry(self) -> float | None:
        """Return when the next letter is to be purged, None if there is none."""
        query = sa.select(sa.func.min(_table.expires_at)).where(_table.state != LetterState.PURGED)
        with self._read() as connection:
            moment: float | None = connection.scalar(query)
            return moment

    def purge(self, where: LetterFilter, *, progress: Progress = None) -> int:
        """Drop the content of letters, leaving a row that says what they were; return how many.

        progress: called with how many so far.
        """
        states = (*WAITING, LetterState.REPLAYED)
        return self._change(where, states, progress, **DROPPED, state=LetterState.PURGED, purged_at=self.clock())

    def purge_expired(self, now: float) -> int:
        """Purge the letters whose time is up at ``now``; return how many."""
        old = sa.and_(_table.expires_at <= now, _table.state != LetterState.PURGED, self._free(self.clock()))
        purged = {**DROPPED, "state": LetterState.PURGED, "purged_at": now}
        return self._in_steps(
            old, lambda rows: [sa.update(LETTERS).where(rows, old).values(**purged)], _table.expires_at
        )

    def forget_purged(self, before: float) -> int:
        """Delete the rows of letters that were purged before ``before``, and their audit; return how many."""

        def forget(rows: sa.ColumnElement[bool]) -> Sequence[Any]:
            audited = AUDIT.c.letter_id.in_(sa.select(_table.id).where(rows))
            return [sa.delete(AUDIT).where(audited), sa.delete(LETTERS).where(rows)]

        return self._in_steps(_table.purged_at < before, forget, _table.purged_at)

    # -- by hand -----------------------------------------------------------------------------------------------

    def edit(self, letter_id: str, *, who: str, changes: Mapping[str, Any]) -> Letter:
        """Change a waiting letter's ``body``, ``headers``, ``properties`` or ``queue``, noting it in the audit.

        Raises LetterNotFoundError; LetterInUseError when it is being sent or waits no more; ValueError for others.
        """
        wrong = [name for name in changes if name not in ("body", "headers", "properties", "queue")]
        if wrong or not changes:
            raise ValueError(f"body, headers, properties and queue can be edited, not {wrong or 'nothing'}")
        now = self.clock()
        with self._write() as connection:
            before = self._get(connection, letter_id)
            row = {
                name: value if name in ("body", "queue") else structure_text(value) for name, value in changes.items()
            }
            if "body" in changes:
                row["size"] = len(changes["body"])
            waits = sa.and_(_table.id == letter_id, _table.state.in_(WAITING), self._free(now))
            if not connection.execute(sa.update(LETTERS).where(waits).values(row)).rowcount:
                raise LetterInUseError(letter_id, before.state)
            old = {name: getattr(before, name) for name in changes}
            self._add_audit(
                connection, AuditEntry(letter_id=letter_id, at=now, who=who, action="edit", before=old, after=changes)
            )
            return self._get(connection, letter_id)

    def add_audit(self, entries: Iterable[AuditEntry]) -> None:
        """Note what was done by hand."""
        with self._write() as connection:
            for entry in entries:
                self._add_audit(connection, entry)

    def audit(self, letter_id: str) -> AuditEntries:
        """Return what was done to a letter by hand, oldest first."""
        with self._read() as connection:
            query = sa.select(AUDIT).where(AUDIT.c.letter_id == letter_id).order_by(AUDIT.c.seq)
            return [
                AuditEntry(
                    letter_id=row.letter_id,
                    at=row.at,
                    who=row.who,
                    action=row.action,
                    before=structure_from(row.before),
                    after=structure_from(row.after),
                )
                for row in connection.execute(query)
            ]

    def close(self) -> None:
        """Close the connections; the store can be used again."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].dispose(close=opened[0] == os.getpid())

    # -- inside ------------------------------------------------------------------------------------------------

    def _engine(self) -> sa.Engine:
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            with self._opening.setdefault(process, threading.Lock()):
                if self._opened is None or self._opened[0] != process:
                    engine = open_database(self.url)
                    try:
                        migrate(engine.execution_options(**WRITING))
                    except BaseException:
                        engine.dispose()
                        raise
                    self._opened = (process, engine)
        return self._opened[1]

    def _read(self) -> sa.Connection:
        return self._engine().connect()

    def _write(self) -> Any:
        return self._engine().execution_options(**WRITING).begin()

    def _insert(self) -> Any:
        # One clause of two dialects: SQLAlchemy has it in each of them, not in common.
        if self.url.get_backend_name() == "postgresql":
            from sqlalchemy.dialects.postgresql import insert
        else:
            from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]  # the same for our use
        return insert(LETTERS).on_conflict_do_nothing(index_elements=["id"])

    def _get(self, connection: sa.Connection, letter_id: str) -> Letter:
        row = connection.execute(sa.select(LETTERS).where(_table.id == letter_id)).mappings().first()
        if row is None:
            raise LetterNotFoundError(letter_id)
        return letter_from(row)

    @staticmethod
    def _tally(
        connection: sa.Connection, column: sa.ColumnElement[Any], chosen: sa.ColumnElement[bool]
    ) -> Sequence[Any]:
        """Return the numbers of letters that wait as (value of ``column``, reason, number): one index, no row."""
        query = sa.select(column, _table.reason, sa.func.count()).where(_table.state.in_(WAITING), chosen)
        return connection.execute(query.group_by(_table.state, column, _table.reason)).all()

    @staticmethod
    def _free(now: float) -> sa.ColumnElement[bool]:
        return sa.or_(_table.claimed_until.is_(None), _table.claimed_until <= now)

    def _change(self, where: LetterFilter, states: Sequence[str], progress: Progress = None, /, **values: Any) -> int:
        """Change the letters in one of ``states`` that nobody has claimed."""
        chosen = sa.and_(condition(where), _table.state.in_(states), self._free(self.clock()))
        update = sa.update(LETTERS).values(**values)
        return self._in_steps(chosen, lambda rows: [update.where(rows, chosen)], progress=progress)

    def _in_steps(
        self,
        chosen: sa.ColumnElement[bool],
        change: Callable[[sa.ColumnElement[bool]], Sequence[Any]],
        order: sa.ColumnElement[Any] | None = None,
        progress: Progress = None,
    ) -> int:
        """Run the statements of ``change`` on the chosen rows, so many at a time; return how many the last one changed.

        order: of whose index the rows are read; then the change must be one after which they are not chosen any more.
        progress: called after each step with how many so far.
        Why in steps: a recorder that waits for one long transaction would take the database to be away.
        """
        changed, last = 0, 0
        while True:
            step = sa.select(_table.seq).where(chosen).limit(STEP)
            step = step.order_by(order) if order is not None else step.where(_table.seq > last).order_by(_table.seq)
            with self._write() as connection:
                rows = connection.scalars(step).all()
                if not rows:
                    return changed
                for statement in change(_table.seq.in_(rows)):
                    number = connection.execute(statement).rowcount
                changed, last = changed + int(number), rows[-1]
            if progress is not None:
                progress(changed)

    def _end_claim(self, ids: Sequence[str], claimant: str, **values: Any) -> int:
        ended = 0
        values |= {"claimed_by": None, "claimed_until": None}
        with self._write() as connection:
            for start in range(0, len(ids), 1000):  # databases bound the number of parameters
                mine = sa.and_(_table.id.in_(ids[start : start + 1000]), _table.claimed_by == claimant)
                ended += connection.execute(sa.update(LETTERS).where(mine).values(**values)).rowcount
        return ended

    @staticmethod
    def _add_audit(connection: sa.Connection, entry: AuditEntry) -> None:
        connection.execute(
            sa.insert(AUDIT).values(
                letter_id=entry.letter_id,
                at=entry.at,
                who=entry.who,
                action=entry.action,
                before=structure_text(dict(entry.before)),
                after=structure_text(dict(entry.after)),
            )
        )
