"""Where a thread is right now, for the log."""

from __future__ import annotations

import gc
import sys
import threading
import traceback

__all__ = ["stack_of"]

_looking = threading.Lock()


def stack_of(thread: int, entries: int) -> str:
    """Return the last entries of the stack of the thread with this id, an empty text when it has ended."""
    with _looking:
        # Until Python 3.12 garbage may be collected while this holds a lock of the interpreter, which a thread needs to
        # start: a finalizer that starts one would wait for ever, and with it the whole process.
        collects = gc.isenabled()
        gc.disable()
        try:
            frame = sys._current_frames().get(thread)
        finally:
            if collects:
                gc.enable()
    return "" if frame is None else "".join(traceback.format_stack(frame)[-entries:])
