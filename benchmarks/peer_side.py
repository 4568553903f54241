"""Real processes on one machine: a publisher, two worker processes, the broker, beside Celery's and Dramatiq's own.

Each peer publishes in a process of its own, is drained by two worker processes (Celery: prefork children), and then
answers calls while idle. Beside the idle latencies stand their floors. A peer whose server or package is not there is
left out, and the table says so. Worker processes of Celery run the same options everywhere; a row of ours with
``liap_tasks`` is what its users get.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import monotonic, sleep

from benchmarks.measure import percentile
from benchmarks.peers.marks import COUNTED, STAMPED
from benchmarks.peers.publisher import WARM_UP

__all__ = ["PEERS", "Measured", "Peer", "measure", "table"]

FLOORS = {
    "a byte through four processes": ("relay", "4"),
    "Celery's own steps in four processes": ("celery_relay",),
}
"""The floors of the idle latency: caller, broker, worker and child of a call doing nothing but wake the next, and doing
the least that Celery itself does there. What follows each is its program and the first arguments of that."""

POLL_SECONDS = 0.005
PATIENCE = 300.0


@dataclass(frozen=True)
class Peer:
    """Something to measure. server: what has to run. kind: celery or dramatiq. ours: the app of liap_tasks."""

    name: str
    server: str
    kind: str = "celery"
    ours: bool = False


PEERS = (
    Peer("`liap_tasks` on `liap-broker://`", "liap", ours=True),
    Peer("`liap_tasks`, with the journal", "liap+journal", ours=True),
    Peer("Celery on `liap-broker://`", "liap"),
    Peer("Celery on Redis", "redis"),
    Peer("Celery on RabbitMQ", "rabbitmq"),
    Peer("Dramatiq on RabbitMQ", "rabbitmq", kind="dramatiq"),
)


@dataclass(frozen=True)
class Measured:
    """publish: calls per second by one process. drain: tasks per second by two. p50, p99: seconds, idle."""

    publish: float
    drain: float
    p50: float
    p99: float


@contextmanager
def served(*options: str) -> Iterator[str]:
    """Run a broker of ours in a process of its own and give the path of its socket."""
    with tempfile.TemporaryDirectory(prefix="liap-bench-") as folder:
        path = str(Path(folder, "broker.sock"))
        options = tuple(f"{folder}/journal" if option == "JOURNAL" else option for option in options)
        broker = subprocess.Popen(
            [sys.executable, "-m", "transports.broker", "--socket", path, *options], stderr=subprocess.DEVNULL
        )
        try:
            deadline = monotonic() + PATIENCE
            while not Path(path).exists():
                if broker.poll() is not None or monotonic() > deadline:
                    raise RuntimeError("the broker does not start")
                sleep(POLL_SECONDS)
            yield path
        finally:
            broker.terminate()
            broker.wait()


@contextmanager
def server(name: str) -> Iterator[str | None]:
    """Run what a peer needs and give its URL, or None when the program is not here."""
    with ExitStack() as running:
        if name.startswith("liap"):
            options = ("--journal", "JOURNAL") if name.endswith("journal") else ()
            yield f"liap-broker://{running.enter_context(served(*options))}"
            return
        from tests.servers.programs import RABBITMQ, REDIS, find_program
        from tests.servers.rabbitmq import rabbitmq
        from tests.servers.redis import redis

        program = find_program(REDIS if name == "redis" else RABBITMQ)
        if program is None:
            yield None
        elif name == "redis":
            yield running.enter_context(redis(program))
        else:
            yield running.enter_context(rabbitmq(program)).url


class Run:
    """One peer on its running server."""

    def __init__(self, peer: Peer, url: str, folder: Path) -> None:
        self.peer = peer
        self.counted, self.stamped = folder / "counted", folder / "stamped"
        self.counted.write_bytes(b"")
        os.mkfifo(self.stamped)
        self.environment = {
            **os.environ,
            "LIAP_BENCH_BROKER": url,
            "LIAP_BENCH_OURS": "1" if peer.ours else "",
            COUNTED: str(self.counted),
            STAMPED: str(self.stamped),
        }

    def publish(self, number: int) -> float:
        """Publish from another process and return calls per second."""
        return float(self._told("publisher", number))

    def _told(self, program: str, number: int) -> str:
        return subprocess.run(
            [sys.executable, "-m", f"benchmarks.peers.{program}", self.peer.kind, str(number)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            text=True,
            timeout=PATIENCE,
        ).stdout

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Run two worker processes."""
        command = (
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "benchmarks.peers.celery_tasks",
                "worker",
                "-c",
                "2",
                "-P",
                "prefork",
            ]
            if self.peer.kind == "celery"
            else [
                sys.executable,
                "-m",
                "dramatiq",
                "benchmarks.peers.dramatiq_tasks",
                "--processes",
                "2",
                "--threads",
                "4",
            ]
        )
        with open(self.counted.parent / "log", "wb") as log:
            worker = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
            try:
                yield
            finally:
                worker.terminate()
                try:
                    worker.wait(20)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()

    def drained(self, number: int) -> float:
        """Return tasks per second from the first one on; the workers start meanwhile."""
        before, first = 0, 0.0
        deadline = monotonic() + PATIENCE
        while (done := self.counted.stat().st_size) < number:
            if done and not before:
                before, first = done, monotonic()
            if monotonic() > deadline:
                raise TimeoutError(f"{done} of {number} tasks, see {self.counted.parent / 'log'}")
            sleep(POLL_SECONDS)
        if not before:
            raise ValueError(f"{number} tasks are done at the first look: too few to tell how many a second")
        return (number - before) / (monotonic() - first)

    def latencies(self, rounds: int) -> tuple[float, float]:
        """Return p50 and p99 of the seconds from before a call in another process to the start of its task."""
        return _p50_and_p99(self._told("caller", rounds))


def floor(name: str, rounds: int) -> tuple[float, float]:
    """Return p50 and p99 of the seconds that four processes take."""
    program, *arguments = FLOORS[name]
    command = [sys.executable, "-m", f"benchmarks.peers.{program}", *arguments, str(rounds)]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=PATIENCE).stdout
    return _p50_and_p99(told)


def _p50_and_p99(told: str) -> tuple[float, float]:
    taken = [float(line) for line in told.split()]
    return percentile(taken, 0.5), percentile(taken, 0.99)


def _measure(peer: Peer, url: str, scale: float) -> Measured:
    number = int(10_000 * scale)
    with tempfile.TemporaryDirectory(prefix="liap-bench-") as folder:
        run = Run(peer, url, Path(folder))
        publish = run.publish(number)
        with run.workers():
            drain = run.drained(number + WARM_UP)
            p50, p99 = run.latencies(int(500 * scale))
    return Measured(publish, drain, p50, p99)


def measure(scale: float = 1.0, repeat: int = 3) -> dict[str, Measured | str]:
    """Return the medians of each peer, the peers taking turns; a text instead says why one was left out."""
    taken: dict[str, list[Measured]] = {name: [] for name in (*(peer.name for peer in PEERS), *FLOORS)}
    missing: dict[str, str] = {}
    with ExitStack() as running:
        urls = {name: running.enter_context(server(name)) for name in dict.fromkeys(peer.server for peer in PEERS)}
        for peer in PEERS:
            if urls[peer.server] is None:
                missing[peer.name] = f"no {peer.server} server here"
            elif find_spec(peer.kind) is None:
                missing[peer.name] = f"the package {peer.kind} is not installed"
        for _ in range(repeat):
            for peer in PEERS:
                url = urls[peer.server]
                if url is not None and peer.name not in missing:
                    taken[peer.name].append(_measure(peer, url, scale))
            for name in FLOORS:
                taken[name].append(Measured(0.0, 0.0, *floor(name, int(500 * scale))))
    figures: dict[str, Measured | str] = dict(missing)
    for name, measured in taken.items():
        if measured:
            figures[name] = Measured(
                *(median(getattr(one, field) for one in measured) for field in ("publish", "drain", "p50", "p99"))
            )
    return figures


def table(figures: dict[str, Measured | str]) -> tuple[list[str], list[list[str]]]:
    """Return the comparison as header and lines, with how many times better than Celery on Redis each is."""
    head = ["two worker processes", ".delay() a second", "tasks a second", "idle latency p50", "p99"]
    base = figures.get("Celery on Redis")
    lines = []
    for peer in PEERS:
        found = figures[peer.name]
        if isinstance(found, str):
            lines.append([peer.name, f"({found})", "", "", ""])
            continue
        ratios = ["", ""]
        if isinstance(base, Measured):
            ratios = [f" ({found.publish / base.publish:.2f} x)", f" ({found.drain / base.drain:.2f} x)"]
        lines.append(
            [
                peer.name,
                f"{found.publish:,.0f}{ratios[0]}",
                f"{found.drain:,.0f}{ratios[1]}",
                f"{found.p50 * 1000:.2f} ms",
                f"{found.p99 * 1000:.2f} ms",
            ]
        )
    for name in FLOORS:
        lowest = figures[name]
        assert isinstance(lowest, Measured)
        lines.append([name, "", "", f"{lowest.p50 * 1000:.2f} ms", f"{lowest.p99 * 1000:.2f} ms"])
    return head, lines


if __name__ == "__main__":
    for line in table(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, 1))[1]:
        print(*line, sep=" | ")
