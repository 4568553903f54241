"""One process in the place of a Docker container: what pytest-docker-tools asks of a container, and no more.

What a container does is done here with a session of processes: signals go to the first process; when it ends, the
others are killed, as they would be with their container; the log is everything they wrote, restarts included.

Waiting is by event: a thread reads the log and another waits for the end; both wake whoever waits. What only Docker
has (images, networks, statistics) raises :class:`DockerOnlyError`.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from threading import Condition, Thread
from typing import Any, NamedTuple
from uuid import uuid4

from liap_tasks.testing.nodes.errors import DockerOnlyError, NodeFailed, NodeNotRunning
from liap_tasks.testing.nodes.watchdog import Watchdog

__all__ = ["ContainerAttributes", "ExecResult", "LocalProcess", "signal_number"]

ENDS_SECONDS = 10.0
READY_SECONDS = 60.0
EXEC_SECONDS = 60.0


class ExecResult(NamedTuple):
    """How a command ended and what it wrote, as Docker's ``exec_run`` returns it."""

    exit_code: int
    output: bytes


class ContainerAttributes(dict[str, Any]):
    """What Docker would tell about a container, as far as a process has it."""

    def __init__(self, node: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._node = node

    def __missing__(self, key: str) -> Any:
        raise DockerOnlyError(self._node, key)


class LocalProcess:
    """A process with the interface of ``docker.models.containers.Container``.

    command: its words; ``celery`` and ``python`` are those of this interpreter, ``%h`` is the node's host name.
    folder: where its working directory ``app`` and its ``output.log`` are made. mount: what the working directory is
    called inside the "container". ready_prompt: text in its log once it is ready, None: ready when it runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        label: str,
        folder: Path,
        environment: dict[str, str],
        watchdog: Watchdog,
        ready_prompt: str | None = None,
        mount: str = "/app",
    ) -> None:
        self.id = uuid4().hex
        self.short_id = self.id[:12]
        self.name = f"{label}-{self.short_id}"
        self.folder = folder / self.name
        self.working_folder = self.folder / "app"
        self.working_folder.mkdir(parents=True)
        self.log_file = self.folder / "output.log"
        self.ready_prompt = ready_prompt
        self.environment = environment
        self.command = [_program(command[0]), *(word.replace("%h", self.short_id) for word in command[1:])]
        self._mount = PurePosixPath(mount)
        self._watchdog = watchdog
        self._changed = Condition()
        self._log = bytearray()
        self._started_at = 0  # where in the log the latest start is
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = True

    # -- what pytest-docker-tools and pytest-celery use ----------------------------------------------------------

    @property
    def status(self) -> str:
        """``created``, ``running`` or ``exited``; always that of now."""
        if self._process is None:
            return "created"
        return "exited" if self._ended else "running"

    @property
    def attrs(self) -> dict[str, Any]:
        """The part of Docker's description that a process has; other keys raise DockerOnlyError."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return ContainerAttributes(
            self.name,
            {
                "Id": self.id,
                "Name": self.name,
                "Config": ContainerAttributes(
                    self.name, {"Hostname": self.short_id, "Env": variables, "Cmd": self.command}
                ),
                "State": {"Status": self.status, "Pid": self.pid, "ExitCode": self.exit_code},
                "NetworkSettings": ContainerAttributes(
                    self.name, {"Networks": {"loopback": {"IPAddress": "127.0.0.1"}}, "Ports": {}}
                ),
                "HostConfig": ContainerAttributes(self.name, {"PortBindings": {}}),
            },
        )

    def logs(self) -> bytes:
        """Return everything it has written, standard output and error, over all its starts."""
        with self._changed:
            return bytes(self._log)

    def reload(self) -> None:
        """Nothing to do: :attr:`status` is always that of now."""

    def kill(self, signal: str | int | None = None) -> None:  # Docker's name for it
        """Send a signal (name or number, default SIGKILL) to the process; SIGKILL ends all of its children too.

        After a SIGKILL it returns when the process has ended. Raises NodeNotRunning when it had ended before.
        """
        number = signal_number(signal or "SIGKILL")
        process = self._running()
        if number == signal_number("SIGKILL"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            self._wait_for_end(ENDS_SECONDS)
        else:
            process.send_signal(number)

    def stop(self, timeout: float = ENDS_SECONDS) -> None:
        """Ask the process to end by SIGTERM; after ``timeout`` seconds kill it."""
        if self.status != "running":
            return
        with contextlib.suppress(NodeNotRunning):  # it may end by itself meanwhile
            self.kill("SIGTERM")
            if not self.wait(lambda: self._ended, timeout):
                self.kill("SIGKILL")

    def restart(self, timeout: float = ENDS_SECONDS) -> None:
        """Stop the process (see :meth:`stop`), start it again, and wait until it is ready."""
        self.stop(timeout)
        self.start()
        self.wait_until_ready()

    def exec_run(self, cmd: str | Sequence[str], **options: Any) -> ExecResult:
        """Run a command beside the process: same working directory, same environment."""
        if options:
            raise DockerOnlyError(self.name, f"exec_run({', '.join(options)})")
        words = shlex.split(cmd) if isinstance(cmd, str) else list(cmd)
        done = subprocess.run(
            [_program(words[0]), *words[1:]],
            check=False,
            cwd=self.working_folder,
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=EXEC_SECONDS,
        )
        return ExecResult(done.returncode, done.stdout)

    def get_archive(self, path: str) -> tuple[Iterator[bytes], dict[str, Any]]:
        """Return a tar archive of a file or folder, whose path is one "inside the container"."""
        inside = PurePosixPath(path)
        if inside.is_relative_to(self._mount):
            inside = PurePosixPath(self.working_folder, inside.relative_to(self._mount))
        source = Path(inside)
        buffer = io.BytesIO()
        with tarfile.open(mode="w", fileobj=buffer) as archive:
            archive.add(source, arcname=source.name)
        return iter([buffer.getvalue()]), {"name": source.name}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise DockerOnlyError(self.name, name)

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process id, 0 when it does not run."""
        return self._process.pid if self._process is not None and not self._ended else 0

    @property
    def exit_code(self) -> int | None:
        """The exit status of the latest start, negative for a signal's number; None while it runs."""
        return self._process.returncode if self._process is not None and self._ended else None

    def start(self) -> None:
        """Start the process; does not wait until it is ready."""
        process = subprocess.Popen(
            self.command,
            cwd=self.working_folder,
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for pytest; and what it leaves behind can be ended with it
        )
        self._watchdog.watch(process.pid)
        with self._changed:
            self._process, self._ended, self._started_at = process, False, len(self._log)
        reader = Thread(target=self._read, args=(process,), name=f"log of {self.name}", daemon=True)
        reader.start()
        Thread(target=self._reap, args=(process, reader), name=f"end of {self.name}", daemon=True).start()

    def wait_until_ready(self, timeout: float = READY_SECONDS) -> None:
        """Return when the ready prompt is in the log of the latest start. Raises NodeFailed when it never is."""
        prompt = (self.ready_prompt or "").encode()
        self.wait(lambda: self._ended or prompt in self._log[self._started_at :], timeout)
        if prompt not in self._log[self._started_at :]:
            ended = f"ended with status {self.exit_code}" if self._ended else f"was not ready in {timeout:g} s"
            raise NodeFailed(self.name, ended, self.logs().decode(errors="replace"))

    def wait_for_log(self, text: str, timeout: float) -> bool:
        """Wait until a text is in the log; tell whether it came in time (seconds)."""
        wanted = text.encode()
        return self.wait(lambda: wanted in self._log, timeout)

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition on the log or the status; it is looked at after each change. Tell whether it came."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._ended:
            raise NodeNotRunning(self.name)
        return self._process

    def _wait_for_end(self, timeout: float) -> None:
        if not self.wait(lambda: self._ended, timeout):
            raise NodeFailed(self.name, f"did not end in {timeout:g} s", self.logs().decode(errors="replace"))

    def _variables(self) -> dict[str, str]:
        return {**os.environ, **self.environment, "LIAP_NODE_PID": str(self.pid)}

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout, self.log_file.open("ab") as file:
            while chunk := process.stdout.read1(65_536):  # type: ignore[attr-defined]  # a buffered reader, IO to mypy
                file.write(chunk)
                file.flush()
                with self._changed:
                    self._log += chunk
                    self._changed.notify_all()

    def _reap(self, process: subprocess.Popen[bytes], reader: Thread) -> None:
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children end with it, as with a container
        reader.join(ENDS_SECONDS)  # the log is whole, unless a daemon of another session holds it open
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._watchdog.forget(process.pid)


def signal_number(name: str | int) -> int:
    """Return the number of a signal given as ``SIGTERM``, ``TERM`` or a number."""
    if isinstance(name, int):
        return name
    return getattr(signal, name if name.startswith("SIG") else f"SIG{name}").value  # type: ignore[no-any-return]  # an enum member, by name


def _program(word: str) -> str:
    if word in ("python", "python3"):
        return sys.executable
    beside = Path(sys.executable).parent / word
    return str(beside) if beside.exists() else word
