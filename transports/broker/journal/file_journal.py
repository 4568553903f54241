"""A journal in files: what a broker tells is written down once per commit, and read back after a restart.

A directory of numbered files, each at most about ``segment_bytes`` long, to which blocks are appended. Every file
begins with all definitions that hold and the ids that deduplication windows know, so that older ones may go.

Why not SQLite: what a queue needs is to append and, soon after, to forget; a table with an index costs some 20
microseconds for both, a block of records two or three, and a kill in the middle of either loses nothing.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from transports.broker.journal.batch import Batch, packed_table
from transports.broker.journal.compaction import Compaction
from transports.broker.journal.definitions import Definition
from transports.broker.journal.directory import JournalDirectory, sync_directory
from transports.broker.journal.errors import JournalError
from transports.broker.journal.queue_log import FileQueueLog
from transports.broker.journal.reading import read_journal
from transports.broker.journal.records import LEFT, SEEN, SEGMENT_SHIFT, SNAPSHOT
from transports.broker.journal.restoring import LeftOut, stored_hosts
from transports.broker.journal.statistics import JournalStatistics
from transports.broker.journal.writer import JournalWriter, Segment
from transports.engine import Broker, Clock, QueueArguments, SystemClock
from transports.engine.exchange import Exchange
from transports.engine.queue import Queue

__all__ = ["FileJournal"]

logger = logging.getLogger("transports.broker")

DEFAULTS = {one.name: one.default for one in fields(QueueArguments)}


class FileJournal:
    """The journal of one served broker: all its virtual hosts, one directory.

    Not thread-safe but for :meth:`sync`: whoever serialises the broker's operations calls the rest between them.
    needs_sync: whether confirms wait for :meth:`sync` (``sync="disk"``).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        sync: Literal["os", "disk"] = "os",
        segment_bytes: int = 32 * 2**20,
    ) -> None:
        """Lock the directory, made where it is missing, and read what is in it.

        clock: that of the brokers. sync: what a commit survives, ``os``: the end of this process, ``disk``: that of the
        machine too. segment_bytes: how long a file gets, at least 4096.
        Raises JournalLocked, JournalVersionError (nothing is touched then), JournalError.
        """
        if sync not in ("os", "disk"):
            raise ValueError(f"sync={sync!r}: use 'os' or 'disk'")
        if segment_bytes < 4096:
            raise ValueError(f"segment_bytes={segment_bytes}: at least 4096")
        self.needs_sync = sync == "disk"
        self._clock: Clock = clock or SystemClock()
        self._segment_bytes = segment_bytes
        self._began = time.perf_counter()
        self._recovery = (0, 0.0)
        self._recovered = False
        self._closed = False
        self._retiring = 0
        self._directory = JournalDirectory(Path(path))
        try:
            with _without_collection():
                reading = read_journal(self._directory, self._clock.time())
            self._definitions = reading.replay.definitions
            self._highest = reading.replay.highest
            self._replay = reading.replay
            self._segments = reading.segments
            self._batch = Batch(self._clock)
            self._logs: dict[int, FileQueueLog] = {}
            self._writer = JournalWriter(self._directory, reading.salt)
            self._snapshot_bytes = 0
            self._full_at = 0
            self._compaction = Compaction(self._batch, self._logs, self._segments, self._allowance)
            for segment in self._segments:
                self._batch.live[segment.number] = 0
            for entries in self._replay.entries.values():
                for name in entries:
                    self._batch.live[name >> SEGMENT_SHIFT] += 1
            self._begin_file(reading.number + 1)
        except BaseException:
            self._directory.unlock()
            raise
        self._keeper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._stepped_at = self._writer.written

    # -- after a restart ---------------------------------------------------------------------------------------

    def recover(self, make_broker: Callable[[str], Broker]) -> dict[str, Broker]:
        """Return a broker for each virtual host that has something durable, with all that it had, by name.

        make_broker: returns an empty broker for a virtual host, on this journal and its clock. To be called once,
        before any other broker uses this journal. Messages that a consumer held are in their queues again, marked
        redelivered (that the broker ended does not count against ``x-delivery-limit``); what fell due meanwhile has
        happened.
        """
        if self._recovered:
            raise RuntimeError("a journal is recovered once")
        self._recovered = True
        brokers = {}
        with _without_collection():
            hosts, left_out = stored_hosts(self._replay, self._batch.offset, self._log_of)
            del self._replay
            if left_out:
                self._leave_out(left_out)
            messages = sum(len(log.live) for log in self._logs.values())
            for vhost, host in hosts.items():
                broker = brokers[vhost] = make_broker(vhost)
                broker.restore(host)
        self.commit()
        self._recovery = (messages, time.perf_counter() - self._began)
        if hosts:
            logger.info("journal %s: %d messages in %d queues", self._directory.path, messages, len(self._logs))
        return brokers

    def _leave_out(self, messages: list[LeftOut]) -> None:
        """Forget messages that cannot be understood, and say where they are kept."""
        batch = self._batch
        numbers = set()
        for one in messages:
            number = one.name >> SEGMENT_SHIFT
            numbers.add(number)
            batch.live[number] -= 1
            batch.changes.append(one.name | LEFT)
        logger.error(
            "journal %s: %d messages cannot be understood, the first in queue %r (%s); they are left out, and the "
            "files that they stand in are kept as %s",
            self._directory.path,
            len(messages),
            messages[0].queue,
            messages[0].reason,
            ", ".join(self._directory.keep(number).name for number in sorted(numbers)),
        )

    def _log_of(self, definition: Definition) -> FileQueueLog:
        return FileQueueLog(definition, self._batch, self._definitions, self._logs)

    # -- what a broker tells -----------------------------------------------------------------------------------

    def queue_declared(self, vhost: str, queue: Queue) -> FileQueueLog:
        if not self._recovered:
            raise RuntimeError("recover() comes first")
        self._highest += 1
        arguments = {
            name: value for name, default in DEFAULTS.items() if (value := getattr(queue.arguments, name)) != default
        }
        definition = ["queue", vhost, queue.name, self._highest, queue.auto_delete, arguments]
        self._define(definition)
        return self._log_of(definition)

    def exchange_declared(self, vhost: str, exchange: Exchange) -> None:
        self._define(
            [
                "exchange",
                vhost,
                exchange.name,
                exchange.type,
                exchange.auto_delete,
                exchange.internal,
                exchange.arguments,
            ]
        )

    def exchange_deleted(self, vhost: str, exchange: Exchange) -> None:
        self._define(["delete exchange", vhost, exchange.name])

    def binding_changed(
        self,
        vhost: str,
        source: Exchange,
        destination: Queue | Exchange,
        routing_key: str,
        arguments: Mapping[str, Any],
        *,
        exists: bool,
    ) -> None:
        what = "binding" if exists else "unbind"
        to_queue = isinstance(destination, Queue)
        self._define([what, vhost, source.name, to_queue, destination.name, routing_key, dict(arguments)])

    def _define(self, definition: Definition) -> None:
        self._batch.define(definition)
        self._definitions.apply(definition)

    # -- writing -----------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether there is something to commit."""
        batch = self._batch
        return bool(batch.parts or batch.changes)

    def commit(self) -> int:
        """Write all that was told since the last commit, as one block in one write; return the commit's number.

        With nothing to write it returns the last number. What is written is there as a whole after this process was
        killed; after the machine was, if :meth:`sync` has returned this number or a larger one.

        Raises JournalError when it cannot be written (disk full, I/O error). Then the files end as after the last good
        commit, all records are still collected, and the next commit tries to write them together with the newer ones.
        Until one succeeds nothing since the last good commit is safe: confirm none of it, refuse what would add to it,
        and try again or shut down. Where the files were removed or moved away under it no other commit will succeed.
        """
        batch, writer = self._batch, self._writer
        if not batch.parts and not batch.changes:
            if writer.broken is not None:
                raise writer.broken
            return writer.commits
        segment = writer.segment
        given = batch.given
        payload = batch.payload()
        writer.append(payload)
        fresh = given - segment.entered
        if fresh:
            segment.entered_bytes += len(payload) - 8 * len(batch.changes)
            segment.entered = given
            batch.live[segment.number] += fresh
        batch.clear()
        if segment.size >= self._full_at:
            self._next_file()
        return writer.commits

    def _allowance(self) -> int:
        """Return the size of a file: what is set, or more where the definitions alone take that."""
        return max(self._segment_bytes, 2 * self._snapshot_bytes)

    def _next_file(self) -> None:
        try:
            self._directory.check()
        except JournalError as error:
            self._writer.broken = error  # what is written elsewhere is not there after a restart
            raise
        try:
            self._begin_file(self._writer.segment.number + 1)
        except JournalError as error:
            self._full_at += self._allowance() // 8
            logger.warning("the journal goes on in its file for now: %s", error)
            return
        self._in_background([])

    def _begin_file(self, number: int) -> None:
        snapshot = packed_table(SNAPSHOT, list(self._definitions)) + self._seen()
        self._writer.begin(number, snapshot)
        self._snapshot_bytes = len(snapshot)
        self._full_at = self._allowance()
        self._segments.append(self._writer.segment)
        self._batch.begin_file(number)

    def _seen(self) -> bytes:
        """Return what deduplication windows know of older files, packed."""
        if not self._recovered:
            known = self._replay.seen
        else:
            offset, now = self._batch.offset, self._clock.now()
            known = {
                log.number: {key: until + offset for key, until in log.seen.items() if until > now}
                for log in self._logs.values()
                if log.seen
            }
        return b"".join(packed_table(SEEN, [number, ids]) for number, ids in known.items())

    def sync(self) -> int:
        """Write to the disk what was committed, and return the number of the last commit that is there for sure.

        May run in another thread while commits go on. Raises JournalError; nothing can be committed any more then.
        """
        return self._writer.sync()

    # -- old files ---------------------------------------------------------------------------------------------

    def compact_step(self, budget: int = 256 * 1024) -> bool:
        """Do a little towards removing old files; tell whether there is more to do at once.

        Costs next to nothing where there is nothing to do. Copies up to ``budget`` bytes, or twice what was written
        since the last step where that is more, so that the files never take much more than twice what lives in them
        and one file. Commits what is pending, and may raise what :meth:`commit` raises.
        """
        if self.pending:
            self.commit()
        dead = self._compaction.take_dead()
        if dead:
            self._in_background(dead)
        written = self._writer.written
        more = self._compaction.step(max(budget, 2 * (written - self._stepped_at)), written)
        self._stepped_at = written
        if more:
            self.commit()
        return more

    def _in_background(self, dead: list[Segment]) -> None:
        self._retiring += sum(one.size for one in dead)
        self._keeper.submit(self._settle_files, dead)

    def _settle_files(self, dead: list[Segment]) -> None:
        """Sync what has been written, then remove files whose messages are in it or gone; in the keeper's thread."""
        try:
            self._writer.sync(sealed_only=not dead)
            for segment in dead:
                path = self._directory.file(segment.number)
                try:
                    path.unlink()
                    sync_directory(self._directory.path)
                except OSError as error:
                    raise JournalError.of("cannot remove", path, error) from error
                self._retiring -= segment.size
        except JournalError as error:
            logger.exception("the journal can be written to no more")
            self._writer.broken = self._writer.broken or error

    # -- looking in, and the end -------------------------------------------------------------------------------

    def statistics(self) -> JournalStatistics:
        """Return the numbers of now."""
        return JournalStatistics(
            files=len(self._segments),
            bytes=sum(one.size for one in self._segments) + self._retiring,
            live_messages=sum(len(log.live) for log in self._logs.values()),
            live_bytes=self._compaction.live_bytes(),
            commits=self._writer.commits,
            written_bytes=self._writer.written,
            copied_bytes=self._compaction.copied,
            recovered_messages=self._recovery[0],
            recovery_seconds=self._recovery[1],
        )

    def close(self) -> None:
        """Commit, write everything to the disk, and let another process have the directory.

        Raises JournalError when that fails; the directory is let go all the same. A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._recovered:
                self.commit()
            self.sync()
        finally:
            self._keeper.shutdown()
            self._writer.close()
            self._directory.unlock()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the garbage collector from looking again and again at messages that are being read (half of the time)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
