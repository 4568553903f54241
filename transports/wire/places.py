"""Where the user's own broker has its socket, its journal and its log.

The socket is in the user's runtime directory, where the processes of one user meet; journal and log are in the user's
directory for state (XDG Base Directory Specification), which outlives a restart of the machine.

Processes of one user may have different environments (a login and a cron job), and so different sockets for one
journal. Only one broker can have the journal; it writes its socket into the journal's lock file, where processes that
find nobody on their own socket look for it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from transports.engine.errors import InvalidArgument

__all__ = ["default_journal", "default_log", "default_socket", "is_own", "journal_lock", "private_directory"]

FOLDER = "liap-tasks"


def default_socket() -> str:
    """Return the path of the user's own socket, whose directory belongs to the user alone.

    ``$XDG_RUNTIME_DIR/liap-tasks/broker.sock``; without that variable the runtime directory that the system keeps for
    the user, and where there is none a directory named after the user among the temporary files.
    """
    for runtime in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{os.getuid()}"):
        if runtime and os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK):
            return str(Path(runtime, FOLDER, "broker.sock"))
    return str(Path(tempfile.gettempdir(), f"{FOLDER}-{os.getuid()}", "broker.sock"))


def _state() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    if state and os.path.isabs(state):
        return Path(state, FOLDER)
    home = os.path.expanduser("~")
    if os.path.isabs(home) and os.access(home, os.W_OK | os.X_OK):
        return Path(home, ".local", "state", FOLDER)
    return Path(default_socket()).parent  # a user without a home


def default_journal() -> str:
    """Return the directory of the journal of the user's own broker."""
    return str(_state() / "journal")


def journal_lock(journal: str | os.PathLike[str]) -> str:
    """Return the file that a broker holds while it has a journal; its signature names the broker's socket."""
    return str(Path(journal, "lock"))


def default_log() -> str:
    """Return the log file of the user's own broker where it was started in the background."""
    return str(_state() / "broker.log")


def private_directory(directory: Path) -> None:
    """Make a directory that only this user can enter, or check that the existing one is such.

    Raises InvalidArgument for one that belongs to somebody else, is a link, or lets others in.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise InvalidArgument(
            "directory", str(directory), "a directory of your own that nobody else can enter (chmod 700), and no link"
        )


def is_own(directory: Path) -> bool:
    """Tell whether a directory is there into which this user alone can have put what is in it, and no link."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o022
