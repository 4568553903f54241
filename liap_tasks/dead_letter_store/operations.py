"""What people do with dead letters, from Python; ``celery -A ... dlq`` does the same on a command line.

::

    from liap_tasks.dead_letter_store import LetterFilter
    from liap_tasks.dead_letter_store.operations import replay

    report = replay(app, LetterFilter(tasks=("game.settle",)), rate=100)

Looking, purging and cancelling are methods of the store itself (``app.dead_letter_store``: ``list``, ``get``,
``stats``, ``audit``, ``purge``, ``cancel_schedule``). Why these are apart from the package's own names: the settings
look into that package, and sending a letter needs the settings.
"""

from liap_tasks.dead_letter_store.call import Call, CallChange, call_of
from liap_tasks.dead_letter_store.editing import edit
from liap_tasks.dead_letter_store.replay import ReplayReport, replay
from liap_tasks.dead_letter_store.stop_rule import StopRule
from liap_tasks.dead_letter_store.transfer import ImportReport, export_letters, import_letters

__all__ = [
    # sending back
    "ReplayReport",
    "StopRule",
    "replay",
    # changing
    "Call",
    "CallChange",
    "call_of",
    "edit",
    # moving
    "ImportReport",
    "export_letters",
    "import_letters",
]
