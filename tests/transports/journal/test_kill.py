"""Processes with a journal are killed at random moments, one after the other, and lose nothing that they committed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

from transports.broker.journal import FileJournal
from transports.engine import Broker

ROUNDS = 20


def said_by_killed_processes(path: Path) -> list[str]:
    """Let one process after the other work on a journal, kill each after some lines; return all lines."""
    rng = random.Random(1)
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.transports.journal.busy_broker", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        for seed in range(ROUNDS):
            print(seed, file=starter.stdin, flush=True)
            what, pid = starter.stdout.readline().split()
            assert what == "pid"
            lines += [starter.stdout.readline() for _ in range(rng.randrange(1, 200))]
            os.kill(int(pid), signal.SIGKILL)
            lines += takewhile(lambda line: line != "over\n", starter.stdout)
        starter.stdin.close()
    return lines


def test_processes_killed_at_any_moment_lose_nothing_committed(tmp_path: Path) -> None:
    bodies: dict[str, set[str]] = {"+": set(), "-": set(), "?": set()}
    for line in said_by_killed_processes(tmp_path / "journal"):
        what, *named = line.split()
        bodies[what].update(named)

    journal = FileJournal(tmp_path / "journal")
    [broker] = journal.recover(lambda vhost: Broker(vhost, journal=journal)).values()
    found = [message.body.decode().strip() for message in broker.peek("q", 10**6)]
    journal.close()

    assert len(bodies["+"]) > 1000
    assert len(found) == len(set(found))
    assert not set(found) & bodies["-"]
    assert bodies["+"] - bodies["?"] <= set(found)
    order = [tuple(map(int, body.split("."))) for body in found]
    assert order == sorted(order)
