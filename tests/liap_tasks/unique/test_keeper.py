"""Renewing what runs: before its lease ends, until it is dropped, and noticing when it is lost."""

from __future__ import annotations

import logging
import threading

import pytest

from liap_tasks import UniqueStoreError
from liap_tasks.unique.keeper import LeaseKeeper
from liap_tasks.unique.memory import MemoryStore
from tests.liap_tasks.conftest import DEADLINE, Clock

LEASE = 60.0


class Away(MemoryStore):
    """Locks that can be out of reach."""

    away = False

    def renew(self, key: str, holder: str, token: int | None, seconds: float) -> bool:
        if self.away:
            raise UniqueStoreError("memory://", "away")
        return super().renew(key, holder, token, seconds)


class Still(LeaseKeeper):
    """A keeper without its thread: the test says when it looks."""

    def _run(self) -> None: ...


@pytest.fixture
def store(clock: Clock) -> Away:
    return Away(clock=clock)


@pytest.fixture
def keeper(store: Away, clock: Clock) -> Still:
    return Still(store, clock=clock)


def test_a_held_lock_is_renewed_when_a_third_of_its_lease_has_passed(store: Away, keeper: Still, clock: Clock) -> None:
    held = keeper.hold(store.acquire("key", "call-1", LEASE), LEASE)
    for _ in range(10):
        clock.now += LEASE / 3
        keeper.renew_due()
    found = store.find("key")
    assert found is not None
    assert (found.token, found.expires_at) == (held.token, clock.now + LEASE)
    assert held.held


def test_a_dropped_lock_is_left_to_its_end(store: Away, keeper: Still, clock: Clock) -> None:
    held = keeper.hold(store.acquire("key", "call-1", LEASE), LEASE)
    keeper.drop(held)
    clock.now += LEASE / 3
    keeper.renew_due()
    clock.now += LEASE * 2 / 3
    assert store.find("key") is None
    assert not held.held


def test_a_lock_that_another_has_taken_is_known_to_be_lost(
    store: Away, keeper: Still, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    held = keeper.hold(store.acquire("key", "call-1", LEASE), LEASE)
    clock.now += LEASE  # this process did not run for so long
    taken = store.acquire("key", "call-2", LEASE)
    with caplog.at_level(logging.WARNING):
        keeper.renew_due()
        keeper.renew_due()

    assert not held.held
    assert taken.token > held.token
    assert store.find("key") == taken
    assert [record.message for record in caplog.records if "call-1 has lost its lock" in record.message] != []
    assert len(caplog.records) == 1


def test_locks_that_are_out_of_reach_are_tried_again_and_said_once(
    store: Away, keeper: Still, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    held = keeper.hold(store.acquire("key", "call-1", LEASE), LEASE)
    store.away = True
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            clock.now += LEASE / 3
            keeper.renew_due()
    assert held.held
    assert len(caplog.records) == 1
    clock.now += LEASE / 3
    assert not held.held  # nobody can be sure any more
    store.away = False
    keeper.renew_due()
    assert held.held


def test_the_thread_renews_what_is_added_while_it_waits() -> None:
    renewed = threading.Semaphore(0)

    class Telling(MemoryStore):
        def renew(self, key: str, holder: str, token: int | None, seconds: float) -> bool:
            renewed.release()
            return super().renew(key, holder, token, seconds)

    store = Telling()
    keeper = LeaseKeeper(store)
    slow = keeper.hold(store.acquire("slow", "call-1", LEASE), LEASE)
    quick = keeper.hold(store.acquire("quick", "call-2", 0.03), 0.03)
    assert renewed.acquire(timeout=DEADLINE)
    assert renewed.acquire(timeout=DEADLINE)
    for held in (slow, quick):
        keeper.drop(held)
