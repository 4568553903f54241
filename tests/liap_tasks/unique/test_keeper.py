"""Renewing what runs: before its lease ends, until it is dropped, and noticing when it is lost."""

from __future__ import annotations

import logging
import threading

import pytest

from liap_tasks import UniqueStoreError
from liap_tasks.unique.keeper import LeaseKeeper
from liap_tasks.unique.memory import MemoryStore
from tests.liap_tasks.conftest import DEADLINE
from transports import SystemClock, VirtualClock

LEASE = 60.0


class Away(MemoryStore):
    """Locks that can be out of reach."""

    away = False

    def renew(self, key: str, holder: str, token: int | None, seconds: float) -> bool:
        if self.away:
            raise UniqueStoreError("memory://", "away")
        return super().renew(key, holder, token, seconds)


@pytest.fixture
def time() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def store(time: VirtualClock) -> Away:
    return Away(clock=time.time)


@pytest.fixture
def keeper(store: Away, time: VirtualClock) -> LeaseKeeper:
    return LeaseKeeper(store, time)


def test_a_held_lock_is_renewed_when_a_third_of_its_lease_has_passed(
    store: Away, keeper: LeaseKeeper, time: VirtualClock
) -> None:
    held = keeper.hold(store.acquire("key", "call-1", LEASE), LEASE)
    time.advance(10 * LEASE / 3)
    found = store.find("key")
    assert found is not None
    assert (found.token, found.expires_at) == (held.token, pytest.approx(time.time() + LEASE))
    assert held.held


def test_a_dropped_lock_is_left_to_its_end(store: Away, keeper: LeaseKeeper, time: VirtualClock) -> None:
    held = keeper.hold(store.acquire("key", "call-1", LEASE), LEASE)
    keeper.drop(held)
    time.advance(LEASE - 1)
    assert store.find("key") is not None
    time.advance(1)
    assert store.find("key") is None
    assert not held.held


def test_a_lock_that_another_has_taken_is_known_to_be_lost(
    store: Away, keeper: LeaseKeeper, time: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    held = keeper.hold(store.acquire("key", "call-1", LEASE), LEASE)
    time.detach(keeper)
    time.advance(LEASE)  # this process did not run for so long
    taken = store.acquire("key", "call-2", LEASE)
    with caplog.at_level(logging.WARNING):
        keeper.run_due()
        keeper.run_due()

    assert not held.held
    assert taken.token > held.token
    assert store.find("key") == taken
    assert len(caplog.records) == 1
    assert "call-1 has lost its lock" in caplog.text


def test_locks_that_are_out_of_reach_are_tried_again_and_said_once(
    store: Away, keeper: LeaseKeeper, time: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    held = keeper.hold(store.acquire("key", "call-1", LEASE), LEASE)
    store.away = True
    with caplog.at_level(logging.WARNING):
        time.advance(LEASE - 1)
        assert held.held
        time.advance(1)
        assert not held.held  # nobody can be sure any more
    assert len(caplog.records) == 1
    store.away = False
    time.advance(LEASE / 3)
    assert held.held


def test_the_thread_renews_what_is_added_while_it_waits() -> None:
    renewed = threading.Semaphore(0)

    class Telling(MemoryStore):
        def renew(self, key: str, holder: str, token: int | None, seconds: float) -> bool:
            renewed.release()
            return super().renew(key, holder, token, seconds)

    store = Telling()
    keeper = LeaseKeeper(store, SystemClock())
    slow = keeper.hold(store.acquire("slow", "call-1", LEASE), LEASE)
    quick = keeper.hold(store.acquire("quick", "call-2", 0.03), 0.03)
    assert renewed.acquire(timeout=DEADLINE)
    assert renewed.acquire(timeout=DEADLINE)
    for held in (slow, quick):
        keeper.drop(held)
