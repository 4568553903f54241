"""Waking the thread of Celery's event loop from another one, once for all that is told before it looks.

Why not kombu's ``Hub.call_soon``: an acknowledgement is itself such a call, and one made by another is not run before
the next turn of the loop, up to a second later (kombu 5.7).
"""

from __future__ import annotations

import socket
import threading

__all__ = ["Bell"]


class Bell:
    """A socket that becomes readable when it is rung; give it to ``Hub.add_reader``."""

    def __init__(self) -> None:
        self._heard, self._rung = socket.socketpair()
        self._heard.setblocking(False)
        self._rung.setblocking(False)
        self._ringing = False
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._heard.fileno()

    def ring(self) -> None:
        """Called from any thread; a closed bell makes no sound."""
        if not self._ringing:
            with self._lock:
                self._ringing = True
                if self._rung.fileno() >= 0:
                    self._rung.send(b"!")

    def silence(self) -> None:
        """Called by the event loop before it looks; what is told from now on rings again."""
        self._heard.recv(4096)
        self._ringing = False

    def close(self) -> None:
        """Give the sockets back; take it from the event loop before."""
        with self._lock:
            self._heard.close()
            self._rung.close()
