"""The demo itself, as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from game_tasks.__main__ import main


def play(seed: int, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "game_tasks", "play", "--seed", str(seed), *options],
        capture_output=True,
        text=True,
        timeout=60,
        # What the tests set for themselves, a user has not set.
        env={name: value for name, value in os.environ.items() if name != "DLQ_STORE_URL"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def output() -> str:
    return play(7)


def scores(output: str) -> str:
    return next(line for line in output.splitlines() if line.startswith("final scores:"))


def test_every_event_is_handled_by_every_subscriber_once(output: str) -> None:
    counts = re.search(
        r"events published (\d+) = events handled (\d+); deliveries to subscribers (\d+) = handled (\d+), twice (\d+)",
        output,
    )
    assert counts is not None
    published, handled, deliveries, ended, twice = map(int, counts.groups())
    assert published == handled > 100
    assert deliveries == ended > published
    assert twice == 0


def test_the_retry_and_both_dead_letters_are_seen(output: str) -> None:
    assert re.search(r"broken_commentator +retries_exhausted +2 +ConnectionError: no microphone", output)
    assert re.search(r"sleepy_spectator +timed_out +1 +SoftTimeLimitExceeded", output)
    assert re.search(r"2 dead letters; retries 1$", output, re.MULTILINE)


def test_the_latency_from_publish_to_handler_is_shown(output: str) -> None:
    shown = re.search(r"^from publish to handler: p50 ([\d.]+) ms, p99 ([\d.]+) ms$", output, re.MULTILINE)
    assert shown is not None
    assert 0 < float(shown[1]) <= float(shown[2])


def test_every_round_is_shown_and_somebody_wins(output: str) -> None:
    rounds = re.findall(r"^\d+(?: x\d)? +\d/\d ", output, re.MULTILINE)
    won = re.search(r"won by .* after (\d+) rounds", output)
    assert won is not None
    assert len(rounds) == int(won.group(1)) > 0


def test_plain_text_where_there_is_no_terminal(output: str) -> None:
    assert "\x1b" not in output
    assert output.isascii()


@pytest.mark.parametrize("option", ["--pace=-1", "--concurrency=0"])
def test_a_pace_or_a_number_of_threads_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["play", option])
    assert ended.value.code == 2


def test_the_same_seed_is_the_same_game_and_another_is_not(output: str) -> None:
    assert scores(play(7, "--pace", "0")) == scores(output)
    assert scores(play(8)) != scores(output)
