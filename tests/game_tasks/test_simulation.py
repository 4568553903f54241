"""The simulation as a user runs it, and the account that it rests on."""

from __future__ import annotations

import subprocess
import sys
from uuid import uuid4

import pytest

from game_tasks.events import GameEvent, GameEventType
from game_tasks.latency import Latencies
from game_tasks.simulation.account import Account


def simulate(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "game_tasks", "simulate", *options],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_few_rooms_are_played_to_the_end_and_every_claim_holds() -> None:
    done = simulate("--rooms", "3", "--window", "2", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    claims = [line.split("|")[1:3] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [holds.strip() for _, holds in claims[1:]] == ["yes"] * 7
    assert "3 of 3 rooms" in done.stdout
    assert "from publish to handler: p50" in done.stdout
    assert "\x1b" not in done.stdout


SABOTAGE = """
import sys
from game_tasks.__main__ import main
from game_tasks.events import GameEventType
from game_tasks.simulation import run

publish = run.publish

def forgetful(event):
    if event.event_type is GameEventType.GAME_STARTED:
        return None
    if event.event_type is GameEventType.GAME_ENDED:
        publish(event)
    return publish(event)

run.publish = forgetful
run.DELIVERY_SECONDS = 1.0
sys.exit(main(["simulate", "--rooms", "1"]))
"""


def test_a_lost_and_a_doubled_event_make_the_simulation_fail_and_are_named() -> None:
    done = subprocess.run([sys.executable, "-c", SABOTAGE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [
        line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ") and "| NO " in line
    ]
    assert failed == [
        "no event was lost",
        "none came twice, none out of order in its room",
        "each subscriber had each of its events once",
        "the archive holds each event once",
    ]
    assert "came when" in done.stdout
    assert "came again or too late" in done.stdout


def test_a_simulation_of_no_rooms_is_refused() -> None:
    done = simulate("--rooms", "0")
    assert done.returncode == 2
    assert "must be at least 1" in done.stderr


def event(room: str, sequence: int) -> GameEvent:
    return GameEvent(event_type=GameEventType.PIECE_PLAYED, room_id=room, sequence=sequence, event_id=uuid4())


@pytest.fixture
def account() -> Account:
    """An account of two rooms with three events each."""
    account = Account()
    for sequence in (1, 2, 3):
        for room in ("a", "b"):
            account.publish(event(room, sequence), ["witness"])
    account.close_room("a", 3)
    account.close_room("b", 3)
    return account


def witness(account: Account, *seen: str) -> None:
    for one in seen:
        account.witness(event(one[0], int(one[1:])))


def test_rooms_may_be_interleaved(account: Account) -> None:
    witness(account, "a1", "b1", "b2", "a2", "b3", "a3")
    assert account.wait_for_all(0)
    assert (account.gaps, account.twice_or_late, account.on_their_way) == (0, 0, 0)
    assert account.unfinished == 0


def test_a_lost_event_is_found_when_its_successor_comes_or_none_does(account: Account) -> None:
    witness(account, "a1", "a3", "b1", "b2")
    assert account.gaps == 1
    assert not account.wait_for_all(0)
    assert account.problems == ["a: event 3 came when 2 was due"]


@pytest.mark.parametrize("seen", [("a1", "a2", "a2", "a3"), ("a1", "a2", "a3", "a3")])
def test_an_event_that_comes_twice_is_found_even_after_the_last(account: Account, seen: tuple[str, ...]) -> None:
    witness(account, *seen)
    assert account.twice_or_late == 1


def test_an_event_out_of_order_is_found(account: Account) -> None:
    witness(account, "a1", "a3", "a2")
    assert (account.gaps, account.twice_or_late) == (1, 1)


def test_rooms_wait_until_few_enough_events_are_on_their_way(account: Account) -> None:
    assert not account.wait_for_room(3, 0)
    witness(account, "a1", "a2", "a3")
    assert account.wait_for_room(3, 0)
    assert account.most_on_their_way == 6


def test_percentiles_of_latencies_are_right_to_two_per_cent() -> None:
    latencies = Latencies()
    assert latencies.percentile(0.5) == 0.0
    for number in range(1, 1001):
        latencies.note(number / 1000)
    latencies.note(-1.0)
    assert latencies.percentile(0.5) == pytest.approx(0.5, rel=0.03)
    assert latencies.percentile(0.99) == pytest.approx(0.99, rel=0.03)
    assert latencies.percentile(1.0) == pytest.approx(1.0, rel=0.03)
