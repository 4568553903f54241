"""Reading a journal's files after a stop, however it came.

A torn tail is what a write that was not finished leaves: bytes at the end of the newest file that are no whole block.
Nobody was told that they were safe, so they are cut off. Anything else that is no good block is damage: the file is
kept as a copy under another name, all good blocks of it are used, and the log says what may be missing or come back.
So it is with a record in a good block that cannot be understood: it alone is left out, and the file is kept.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from itertools import pairwise

from transports.broker.journal.blocks import (
    HEAD_SIZE,
    HEADER_SIZE,
    VERSION,
    Damage,
    Header,
    pack_header,
    read_blocks,
    unpack_header,
)
from transports.broker.journal.directory import SALT_BYTES, JournalDirectory
from transports.broker.journal.errors import JournalError, JournalVersionError
from transports.broker.journal.replay import Replay
from transports.broker.journal.writer import Segment

__all__ = ["Reading", "read_journal"]

logger = logging.getLogger("transports.broker")


@dataclass(slots=True)
class Reading:
    """What was found.

    salt: of this journal, new for an empty one. number: of the newest file, 0 where there is none.
    """

    replay: Replay
    segments: list[Segment]
    salt: bytes
    number: int


def read_journal(directory: JournalDirectory, now: float) -> Reading:
    """Read all files, oldest first, mending what is torn or damaged. now: POSIX seconds.

    Raises JournalVersionError before anything is touched; JournalError where a file cannot be read at all.
    """
    numbers = directory.numbers()
    headers = {number: _header(directory, number) for number in numbers}
    known = [header.salt for header in headers.values() if header is not None]
    try:
        salt = known[0] if known else directory.kept_salt() or os.urandom(SALT_BYTES)
        directory.keep_salt(salt)
    except OSError as error:
        raise JournalError.of("cannot read or write the salt of", directory.path, error) from error
    reading = Reading(Replay(now), [], salt, numbers[-1] if numbers else 0)
    for before, number in pairwise(numbers):
        if number != before + 1:
            logger.error(
                "journal %s: the files between %d and %d are missing; messages in them are lost, messages whose end "
                "stood in them come back",
                directory.path,
                before,
                number,
            )
    for number in numbers:
        segment = _read_file(directory, number, headers[number], reading, newest=number == numbers[-1])
        if segment is None:
            reading.number = number - 1
        else:
            reading.segments.append(segment)
    _leave_out_what_has_no_place(directory, reading.replay)
    return reading


def _leave_out_what_has_no_place(directory: JournalDirectory, replay: Replay) -> None:
    """Take out what belongs to a queue or an exchange whose declaration is lost, and say so."""
    for _, vhost, source, to_queue, destination, routing_key, _ in replay.definitions.drop_dangling():
        logger.error(
            "journal %s: the binding of %s %r to exchange %r (routing key %r, virtual host %r) is left out, as the "
            "declaration of one of them is lost",
            directory.path,
            "queue" if to_queue else "exchange",
            destination,
            source,
            routing_key,
            vhost,
        )
    messages, queues = replay.drop_homeless()
    if messages:
        logger.error(
            "%d messages of the journal are in %d queues whose declaration is lost; they are in the copies of the "
            "damaged files only",
            messages,
            queues,
        )


def _header(directory: JournalDirectory, number: int) -> Header | None:
    path = directory.file(number)
    try:
        with path.open("rb") as file:
            header = unpack_header(file.read(HEADER_SIZE))
    except OSError as error:
        raise JournalError.of("cannot read", path, error) from error
    if header is not None and header.version != VERSION:
        raise JournalVersionError(path, header.version, VERSION)
    return header


def _read_file(
    directory: JournalDirectory, number: int, header: Header | None, reading: Reading, *, newest: bool
) -> Segment | None:
    path = directory.file(number)
    try:
        data = path.read_bytes()
        if newest and len(data) < HEADER_SIZE:
            logger.warning("journal file %s: torn at byte 0, cut off: %d bytes", path, len(data))
            path.unlink()
            return None
        blocks, damages = [], []
        if header is None:
            damages.append(Damage(0, HEADER_SIZE))
        for found in read_blocks(data, reading.salt):
            if isinstance(found, Damage):
                damages.append(found)
            else:
                blocks.append(found)
        segment = Segment(number, len(data))
        if newest and len(damages) == 1 and damages[0].end == len(data) and header is not None:
            torn = damages[0]
            logger.warning(
                "journal file %s: torn at byte %d, cut off: %d bytes that no publisher was told were safe",
                path,
                torn.start,
                torn.end - torn.start,
            )
            os.truncate(path, torn.start)
            segment.size = torn.start
        elif damages:
            segment.size = _mend(directory, number, data, [(one.start, one.end) for one in blocks], damages, reading)
    except OSError as error:
        raise JournalError.of("cannot read or mend", path, error) from error
    replay = reading.replay
    for block in blocks:
        entered, size = replay.apply(data, block.start, block.end)
        segment.entered += entered
        segment.entered_bytes += size
    if replay.skipped:
        byte, reason = replay.skipped[0]
        logger.error(
            "journal file %s has %d records that cannot be understood, the first at byte %d (%s); they are left out, "
            "and the file is kept as %s",
            path,
            len(replay.skipped),
            byte,
            reason,
            directory.keep(number).name,
        )
        replay.skipped.clear()
    return segment


def _mend(
    directory: JournalDirectory,
    number: int,
    data: bytes,
    blocks: list[tuple[int, int]],
    damages: list[Damage],
    reading: Reading,
) -> int:
    """Keep the file as a copy, put its good blocks in its place, and say so; return the bytes of the good ones."""
    good = [pack_header(number, reading.salt), *(data[start - HEAD_SIZE : end] for start, end in blocks)]
    mended = b"".join(good)
    aside = directory.set_aside(number, mended)
    logger.error(
        "journal file %s is damaged (%s); it is kept as %s and the %d good blocks are used. Messages that stood in the "
        "damaged parts are lost; messages that were settled there come back and are delivered again",
        directory.file(number),
        ", ".join(f"bytes {one.start} to {one.end}" for one in damages),
        aside.name,
        len(blocks),
    )
    return len(mended)
