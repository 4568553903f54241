"""The files: what is torn, damaged, of another version, somebody else's, or cannot be written."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack
from zlib import crc32

import pytest

from tests.transports.journal.stored_broker import StoredBroker
from transports.broker.journal import FileJournal, JournalError, JournalLocked, JournalVersionError
from transports.broker.journal.blocks import HEADER_SIZE, pack_header
from transports.engine import Broker

Start = Callable[..., StoredBroker]


def test_a_torn_tail_is_cut_and_reported(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"1")
    broker.journal.commit()
    [file] = broker.files()
    good = file.stat().st_size
    broker.publish("q", b"2")
    broker.journal.commit()

    after = broker.killed(cut=good + 5)

    assert after.bodies("q") == [b"1"]
    [record] = [one for one in caplog.records if one.levelno == logging.WARNING]
    text = record.getMessage()
    assert file.name in text
    assert f"byte {good}" in text
    assert "5 bytes" in text
    assert after.files()[0].stat().st_size == good
    caplog.clear()
    assert after.killed().bodies("q") == [b"1"]
    assert not caplog.records


def test_a_tail_of_zeros_is_cut(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"1")
    broker.journal.commit()
    with broker.files()[-1].open("ab") as file:
        file.write(bytes(5000))

    assert broker.killed().bodies("q") == [b"1"]


def test_a_file_that_was_only_just_begun_is_no_harm(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"1")
    broker.journal.commit()
    for begun in (b"", b"liap-task"):
        (broker.path / "0000000002.log").write_bytes(begun)

        after = broker.killed()

        assert after.bodies("q") == [b"1"]
        after.publish("q", b"2")
        after.journal.commit()
        caplog.clear()
        assert after.killed().bodies("q") == [b"1", b"2"]
        assert not caplog.records


@pytest.mark.parametrize("where", ["length", "checksum", "mark", "payload"])
def test_a_damaged_block_costs_only_itself(start: Start, caplog: pytest.LogCaptureFixture, where: str) -> None:
    broker = start()
    broker.declare("q")
    broker.journal.commit()
    [file] = broker.files()
    begin = file.stat().st_size
    for number in range(5):
        if number == 1:
            begin = file.stat().st_size
        broker.publish("q", b"%d" % number)
        broker.journal.commit()
    data = bytearray(file.read_bytes())
    data[begin + {"mark": 0, "checksum": 4, "length": 8, "payload": 40}[where]] ^= 1
    file.write_bytes(data)

    after = broker.killed()

    assert after.bodies("q") == [b"0", b"2", b"3", b"4"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    [copy] = after.path.glob("*.damaged-*")
    assert copy.name in caplog.text
    assert copy.read_bytes() == data
    caplog.clear()
    after.publish("q", b"5")
    after.journal.commit()
    assert after.killed().bodies("q") == [b"0", b"2", b"3", b"4", b"5"]
    assert not caplog.records


def test_a_damaged_declaration_is_made_good_by_the_next_file(start: Start) -> None:
    broker = start(segment_bytes=4096)
    broker.journal.commit()
    [file] = broker.files()
    begin = file.stat().st_size
    broker.declare("q")
    broker.journal.commit()
    for _ in range(2):
        broker.publish("q", b"x" * 3000)
        broker.journal.commit()
    assert len(broker.files()) > 1
    data = bytearray(file.read_bytes())
    data[begin + 20] ^= 1
    file.write_bytes(data)

    assert broker.killed().bodies("q") == [b"x" * 3000] * 2


def test_messages_whose_declaration_is_lost_are_reported(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    broker = start()
    broker.journal.commit()
    [file] = broker.files()
    begin = file.stat().st_size
    broker.declare("q")
    broker.journal.commit()
    broker.publish("q", b"1", b"2")
    broker.journal.commit()
    data = bytearray(file.read_bytes())
    data[begin + 20] ^= 1
    file.write_bytes(data)

    assert "q" not in broker.killed().engine.queues
    assert "2 messages of the journal are in 1 queues whose declaration is lost" in caplog.text


def test_a_damaged_header_costs_nothing_where_another_file_is_whole(start: Start) -> None:
    broker = start(segment_bytes=4096)
    broker.declare("q")
    for number in range(4):
        broker.publish("q", b"%d" % number * 3000)
        broker.journal.commit()
    first, *others = broker.files()
    assert others
    data = bytearray(first.read_bytes())
    data[3] ^= 1
    first.write_bytes(data)

    assert [body[:1] for body in broker.killed().bodies("q")] == [b"0", b"1", b"2", b"3"]


def test_a_missing_file_is_reported(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    broker = start(segment_bytes=4096)
    broker.declare("q")
    for number in range(4):
        broker.publish("q", b"%d" % number * 3000)
        broker.journal.commit()
    broker.files()[1].unlink()

    assert [body[:1] for body in broker.killed().bodies("q")] == [b"0", b"2", b"3"]
    assert "the files between 1 and 3 are missing" in caplog.text


def test_a_body_that_looks_like_a_journal_is_never_taken_for_one(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"hidden")
    broker.journal.commit()
    [file] = broker.files()
    broker.publish("q", pack_header(1, b"guessed!") + file.read_bytes()[HEADER_SIZE:])
    broker.journal.commit()
    begin = file.stat().st_size
    broker.publish("q", b"2")
    broker.journal.commit()
    data = bytearray(file.read_bytes())
    data[begin + 4] ^= 1
    file.write_bytes(data)

    other = start_other(broker.path.parent / "other")
    other.publish("q", bytes(data))
    other.journal.commit()
    [theirs] = other.files()
    broken = bytearray(theirs.read_bytes())
    broken[-len(data) - 40] ^= 1  # the block with the body is damaged: the search goes through the body
    theirs.write_bytes(broken)

    assert other.killed().bodies("q") == []
    other.close()


def start_other(path: Path) -> StoredBroker:
    broker = StoredBroker(path)
    broker.declare("q")
    broker.journal.commit()
    return broker


def test_another_version_is_refused_and_nothing_is_touched(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"1")
    broker.journal.commit()
    broker.journal.close()
    plain = pack("<16sHHI8s", b"liap-tasks log\r\n", 7, 0, 2, b"saltsalt")
    newer = broker.path / "0000000002.log"
    newer.write_bytes(plain + crc32(plain).to_bytes(4, "little") + b"what only version 7 can read")
    torn = broker.path / "0000000001.log"
    torn.write_bytes(torn.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in broker.path.glob("*.log*")}

    with pytest.raises(JournalVersionError, match="format 7, this package reads 1") as refused:
        FileJournal(broker.path)

    assert refused.value.version == 7
    assert {path: path.read_bytes() for path in broker.path.glob("*.log*")} == before


def test_a_second_broker_on_a_journal_is_told_who_has_it(tmp_path: Path) -> None:
    code = "import sys; from transports.broker.journal import FileJournal; FileJournal(sys.argv[1])"
    journal = FileJournal(tmp_path)
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert f"belongs to process {os.getpid()}" in ran.stderr
    with pytest.raises(JournalLocked) as refused:
        FileJournal(tmp_path)
    assert refused.value.pid == os.getpid()
    journal.close()
    FileJournal(tmp_path).close()


def test_directory_and_files_are_for_their_owner_only(start: Start) -> None:
    broker = start()
    assert broker.path.stat().st_mode & 0o777 == 0o700
    assert broker.files()[0].stat().st_mode & 0o777 == 0o600


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let every write beyond ``size`` bytes of a file fail, after it has written what fits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_commit_that_does_not_fit_fails_whole_and_succeeds_when_there_is_room(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.publish("q", b"1")
    number = broker.journal.commit()
    [file] = broker.files()
    size = file.stat().st_size
    broker.publish("q", b"2" * 1000)
    with no_file_larger_than(size + 500):
        for _ in range(2):
            with pytest.raises(JournalError, match="cannot write to") as failed:
                broker.journal.commit()
            assert failed.value.errno is not None
            assert file.stat().st_size == size
        assert broker.journal.pending
    at_failure = broker.killed()
    broker.publish("q", b"3")

    assert broker.journal.commit() == number + 1

    assert at_failure.bodies("q") == [b"1"]
    assert broker.killed().bodies("q") == [b"1", b"2" * 1000, b"3"]


def test_a_journal_that_cannot_begin_a_new_file_goes_on_in_the_old_one(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = start(segment_bytes=4096)
    broker.declare("q")
    (broker.path / "0000000002.log").mkdir()
    for number in range(4):
        broker.publish("q", b"%d" % number * 3000)
        broker.journal.commit()
    assert broker.journal.statistics().files == 1
    (broker.path / "0000000002.log").rmdir()
    broker.publish("q", b"4" * 3000)
    broker.journal.commit()
    assert broker.journal.statistics().files == 2

    assert [body[:1] for body in broker.killed().bodies("q")] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_journal_that_was_removed_takes_nothing_more(start: Start) -> None:
    broker = start()
    broker.declare("q")
    broker.journal.commit()
    shutil.rmtree(broker.path)
    for _ in range(2):
        broker.publish("q", b"1")
        with pytest.raises(JournalError, match=r"0000000001\.log was removed"):
            broker.journal.commit()
    with pytest.raises(JournalError, match=r"0000000001\.log was removed"):
        broker.journal.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_was_moved_away_takes_nothing_more_when_it_needs_another_file(
    start: Start, replaced: bool
) -> None:
    broker = start(segment_bytes=4096)
    broker.declare("q")
    broker.journal.commit()
    broker.path.rename(broker.path.with_name("elsewhere"))
    if replaced:
        FileJournal(broker.path).close()
    message = "is no longer the directory that was opened"
    broker.publish("q", b"x" * 5000)
    with pytest.raises(JournalError, match=message):
        broker.journal.commit()
    broker.publish("q", b"1")
    with pytest.raises(JournalError, match=message):
        broker.journal.commit()
    with pytest.raises(JournalError, match=message):
        broker.journal.close()


def test_a_sync_tells_which_commits_are_on_the_disk(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = start(sync="disk")
    assert broker.journal.needs_sync
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    broker.declare("q")
    first = broker.journal.commit()
    assert broker.journal.sync() == first
    assert len(synced) == 1
    broker.publish("q", b"1")
    assert broker.journal.commit() == first + 1
    assert broker.journal.sync() == first + 1


def test_a_failed_sync_ends_the_journal(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = start(sync="disk")
    broker.declare("q")
    broker.journal.commit()

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(JournalError, match="Input/output error"):
            broker.journal.sync()
    broker.publish("q", b"1")
    with pytest.raises(JournalError, match="Input/output error"):
        broker.journal.commit()
    with pytest.raises(JournalError, match="Input/output error"):
        broker.journal.close()


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sync='never'"):
        FileJournal(tmp_path, sync="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="segment_bytes=100"):
        FileJournal(tmp_path, segment_bytes=100)
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot open the journal"):
        FileJournal(tmp_path / "file")


def test_an_empty_commit_writes_nothing(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    journal.recover(lambda vhost: Broker(vhost, journal=journal))
    before = journal.statistics().written_bytes
    assert journal.commit() == 0
    assert not journal.compact_step()
    assert journal.statistics().written_bytes == before
    journal.close()
    journal.close()
