"""What a served broker writes down, so that it is there after a kill and a restart.

The way of a record::

    engine  ->  queue_log.py, file_journal.py  ->  batch.py  ->  writer.py (blocks.py)  ->  the disk
    engine  <-  restoring.py  <-  replay.py (definitions.py)  <-  reading.py (blocks.py)  <-  the disk

``records.py`` says what is written, ``directory.py`` whose the directory is, ``compaction.py`` which files go.
"""

from transports.broker.journal.errors import JournalError, JournalLocked, JournalVersionError
from transports.broker.journal.file_journal import FileJournal
from transports.broker.journal.statistics import JournalStatistics

__all__ = ["FileJournal", "JournalError", "JournalLocked", "JournalStatistics", "JournalVersionError"]
