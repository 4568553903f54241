"""Where dead letters are kept: a database that can be searched, replayed from and cleaned up.

A worker moves them there from the queue ``dead_letters`` (recorder.py); ``app.dead_letter_store`` is the store.
"""

from liap_tasks.dead_letter_store.letter import AuditEntry, Letter, LetterFilter, LetterState, StoreStatistics
from liap_tasks.dead_letter_store.store import DeadLetterStore

__all__ = ["AuditEntry", "DeadLetterStore", "Letter", "LetterFilter", "LetterState", "StoreStatistics"]
