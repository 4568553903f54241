"""A process with a journal is killed at random moments, again and again, and loses nothing that it has committed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from transports.broker.journal import FileJournal
from transports.engine import Broker

ROUNDS = 20


def run_until_killed(path: Path, seed: int, lines: int) -> list[str]:
    """Run a busy broker, kill it when it has said so many lines, and return all that it said, whole lines only."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.transports.journal.busy_broker", str(path), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
    assert said[0] == "ready\n"
    return [line for line in said if line.endswith("\n")]


def test_a_process_that_is_killed_at_any_moment_loses_nothing_committed(tmp_path: Path) -> None:
    rng = random.Random(1)
    published: set[str] = set()
    acknowledged: set[str] = set()
    in_doubt: set[str] = set()
    for seed in range(ROUNDS):
        for line in run_until_killed(tmp_path / "journal", seed, rng.randrange(2, 200)):
            what, *bodies = line.split()
            if what == "+":
                published.update(bodies)
            elif what == "-":
                acknowledged.update(bodies)
            elif what == "try":
                in_doubt.update(bodies[1:])

    journal = FileJournal(tmp_path / "journal")
    [broker] = journal.recover(lambda vhost: Broker(vhost, journal=journal)).values()
    found = [message.body.decode().strip() for message in broker.peek("q", 10**6)]
    journal.close()

    assert len(published) > 1000
    assert len(found) == len(set(found))
    assert not set(found) & acknowledged
    assert published - acknowledged - in_doubt <= set(found)
    by_process = [
        [int(number) for owner, number in (body.split(".") for body in found) if owner == str(seed)]
        for seed in range(ROUNDS)
    ]
    assert all(numbers == sorted(numbers) for numbers in by_process)
