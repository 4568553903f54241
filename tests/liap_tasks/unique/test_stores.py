"""What a place that keeps locks must do: the same on every one, with a clock that the test moves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from liap_tasks import ConfigurationError, UniqueStoreError, load_settings
from liap_tasks.unique import memory, sql
from liap_tasks.unique.lock import FORGOTTEN_AFTER, Lock, UniqueStore
from liap_tasks.unique.memory import MemoryStore, memory_store
from liap_tasks.unique.opening import open_store, store_url
from liap_tasks.unique.sql import SqlStore
from tests.liap_tasks.conftest import Clock
from tests.servers.postgres import empty_schema
from transports import get_broker, reset_broker

Open = Callable[[], UniqueStore]
LEASE = 60.0


@pytest.fixture(params=["memory", "sqlite", "postgresql", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgresql":
        with empty_schema(request.getfixturevalue("postgres_url")) as schema:
            yield schema
    elif request.param == "redis":
        pytest.importorskip("redis")
        yield request.getfixturevalue("redis_url")
    else:
        yield {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/locks.sqlite3"}[request.param]


@pytest.fixture
def open_one(url: str, clock: Clock) -> Iterator[Open]:
    """Open the store, as one more process would (the memory of a process is one and the same)."""
    opened: list[UniqueStore] = []
    broker = f"liap-memory:///{uuid4().hex}"

    def make() -> UniqueStore:
        opened.append(open_store(url, broker_url=broker, clock=clock))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_one: Open) -> UniqueStore:
    return open_one()


@pytest.fixture
def key() -> str:
    return f"tests.settle:{uuid4().hex}"


def test_a_key_has_one_holder(store: UniqueStore, key: str, clock: Clock) -> None:
    first = store.acquire(key, "call-1", LEASE)
    assert first == Lock(key, "call-1", first.token, clock.now + LEASE, False)
    assert store.acquire(key, "call-2", LEASE) == first
    assert store.acquire(key + "x", "call-2", LEASE).holder == "call-2"
    assert store.find(key) == first


def test_the_holder_gets_its_own_lock_again_with_a_higher_token(store: UniqueStore, key: str, clock: Clock) -> None:
    first = store.acquire(key, "call-1", LEASE)
    clock.now += 1
    again = store.acquire(key, "call-1", 10)
    assert (again.holder, again.again, again.expires_at) == ("call-1", True, clock.now + 10)
    assert again.token > first.token


def test_a_lease_ends_by_itself(store: UniqueStore, key: str, clock: Clock) -> None:
    first = store.acquire(key, "call-1", LEASE)
    clock.now += LEASE - 1
    assert store.acquire(key, "call-2", LEASE).holder == "call-1"
    clock.now += 1
    assert store.find(key) is None
    second = store.acquire(key, "call-2", LEASE)
    assert (second.holder, second.again) == ("call-2", False)
    assert second.token > first.token


def test_a_renewal_makes_a_lease_longer_and_never_shorter(store: UniqueStore, key: str, clock: Clock) -> None:
    lock = store.acquire(key, "call-1", LEASE)
    assert store.renew(key, "call-1", lock.token, 10)
    clock.now += 50
    assert store.acquire(key, "call-2", LEASE).holder == "call-1"
    assert store.renew(key, "call-1", None, LEASE)
    clock.now += 50
    assert store.acquire(key, "call-2", LEASE).holder == "call-1"


def test_a_lease_that_ended_and_that_nobody_took_can_be_renewed(store: UniqueStore, key: str, clock: Clock) -> None:
    lock = store.acquire(key, "call-1", LEASE)
    clock.now += 2 * LEASE
    assert store.renew(key, "call-1", lock.token, LEASE)
    assert store.acquire(key, "call-2", LEASE).holder == "call-1"


def test_who_has_lost_the_lock_can_neither_renew_nor_release_it(store: UniqueStore, key: str, clock: Clock) -> None:
    lost = store.acquire(key, "call-1", LEASE)
    clock.now += LEASE
    second = store.acquire(key, "call-2", LEASE)
    for token in (lost.token, None):
        assert not store.renew(key, "call-1", token, 10 * LEASE)
        assert not store.release(key, "call-1", token)
    assert store.find(key) == second


def test_an_older_token_of_the_same_call_has_no_say(store: UniqueStore, key: str) -> None:
    killed = store.acquire(key, "call-1", LEASE)
    redelivered = store.acquire(key, "call-1", LEASE)
    assert not store.renew(key, "call-1", killed.token, 10 * LEASE)
    assert not store.release(key, "call-1", killed.token)
    found = store.find(key)
    assert found is not None
    assert (found.token, found.expires_at) == (redelivered.token, redelivered.expires_at)


@pytest.mark.parametrize("knows_token", [True, False])
def test_a_released_key_is_free_and_remembers_its_token(
    store: UniqueStore, key: str, clock: Clock, knows_token: bool
) -> None:
    first = store.acquire(key, "call-1", LEASE)
    assert store.release(key, "call-1", first.token if knows_token else None)
    assert not store.release(key, "call-1", first.token)
    assert not store.renew(key, "call-1", first.token, LEASE)
    assert store.find(key) is None
    clock.now -= 3600  # a clock that is set back
    assert store.acquire(key, "call-2", LEASE).token > first.token


def test_nothing_is_known_of_a_key_that_was_never_taken(store: UniqueStore, key: str) -> None:
    assert store.find(key) is None
    assert not store.renew(key, "call-1", None, LEASE)
    assert not store.release(key, "call-1")


def test_all_who_open_the_store_see_the_same_locks(open_one: Open, key: str) -> None:
    first, second = open_one(), open_one()
    lock = first.acquire(key, "call-1", LEASE)
    assert second.acquire(key, "call-2", LEASE) == lock
    assert second.release(key, "call-1")
    assert first.acquire(key, "call-3", LEASE).holder == "call-3"


def test_of_many_at_once_one_gets_the_lock(open_one: Open, key: str) -> None:
    callers = 8
    start, got = threading.Barrier(callers), []
    stores = [open_one() for _ in range(2)]

    def call(number: int) -> None:
        start.wait(30)
        for turn in range(5):
            lock = stores[number % 2].acquire(f"{key}-{turn}", f"call-{number}", LEASE)
            if lock.holder == f"call-{number}":
                got.append(turn)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("place", ["memory", "sqlite"])
def test_keys_that_nobody_uses_are_forgotten_and_their_tokens_still_grow(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, tmp_path: Path, place: str
) -> None:
    monkeypatch.setattr(memory, "SWEEP_FROM", 10)
    monkeypatch.setattr(sql, "SWEEP_EVERY", 10)
    url = "memory://" if place == "memory" else f"sqlite:///{tmp_path}/locks.sqlite3"
    store = open_store(url, broker_url=f"liap-memory:///{uuid4().hex}", clock=clock)
    first = store.acquire("old", "call-1", LEASE)
    store.release("old", "call-1", first.token)
    clock.now += FORGOTTEN_AFTER + 1
    for number in range(12):
        store.acquire(f"new-{number}", "call-1", LEASE)

    if isinstance(store, SqlStore):
        with store._transaction() as connection:
            known = set(connection.execute(sa.text("SELECT lock_key FROM unique_locks")).scalars())
    else:
        known = set(store._locks)
    assert known == {f"new-{number}" for number in range(12)}
    assert store.acquire("old", "call-2", LEASE).token > first.token
    store.close()


def test_without_a_clock_of_the_test_the_time_is_the_server_s(url: str, key: str) -> None:
    store = open_store(url, broker_url=f"liap-memory:///{uuid4().hex}")
    lock = store.acquire(key, "call-1", LEASE)
    assert store.acquire(key, "call-2", LEASE) == lock
    assert abs(lock.token / 1_000_000 + LEASE - lock.expires_at) < 1
    assert store.renew(key, "call-1", lock.token, LEASE)
    assert store.release(key, "call-1", lock.token)
    store.close()


class Locks(RuleBasedStateMachine):
    """Calls that take, renew and release one key while time passes: what must always hold."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.tokens: list[int] = []
        self.holder: tuple[str, int, float] | None = None

    @rule(call=st.sampled_from("abc"), seconds=st.integers(1, 10))
    def take(self, call: str, seconds: int) -> None:
        lock = self.store.acquire("key", call, seconds)
        free = self.holder is None or self.holder[0] == call or self.holder[2] <= self.clock.now
        assert (lock.holder == call) is free
        if free:
            assert not self.tokens or lock.token > self.tokens[-1]
            self.tokens.append(lock.token)
            self.holder = (call, lock.token, self.clock.now + seconds)

    @rule(call=st.sampled_from("abc"), back=st.integers(0, 3), seconds=st.integers(1, 10), release=st.booleans())
    def renew_or_release(self, call: str, back: int, seconds: int, release: bool) -> None:
        if len(self.tokens) <= back:
            return
        token = self.tokens[-1 - back]
        own = self.holder is not None and self.holder[:2] == (call, token)
        if release:
            assert self.store.release("key", call, token) is own
            if own:
                self.holder = None
        else:
            assert self.store.renew("key", call, token, seconds) is own
            if own and self.holder is not None:
                self.holder = (*self.holder[:2], max(self.holder[2], self.clock.now + seconds))

    @rule(seconds=st.floats(-5, 10))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def the_holder_is_found(self) -> None:
        found = self.store.find("key")
        held = self.holder is not None and self.holder[2] > self.clock.now
        assert (found.holder if found else None) == (self.holder[0] if held and self.holder else None)


TestLocks = Locks.TestCase
TestLocks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# -- which one is used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "in_process", "expected"),
    [
        ({"message_queue_type": "memory"}, True, "memory://"),
        ({"message_queue_type": "redis"}, False, "redis://127.0.0.1:6379/0"),
        ({"message_queue_type": "rabbitmq", "dlq_store_url": "sqlite:///a.db"}, False, "sqlite:///a.db"),
        ({"message_queue_type": "rabbitmq", "unique_store_url": "redis://x/1"}, False, "redis://x/1"),
        ({"message_queue_type": "memory", "unique_store_url": "sqlite:///b.db"}, True, "sqlite:///b.db"),
    ],
)
def test_the_locks_are_where_all_are_who_have_the_broker(
    given: dict[str, str], in_process: bool, expected: str
) -> None:
    assert store_url(load_settings(**given), in_process=in_process) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"dlq_store_url": "none"},
        {"unique_store_url": "memory://"},
        {"dlq_store_url": "sqlite://"},
    ],
)
def test_locks_that_some_could_not_see_are_refused(given: dict[str, str]) -> None:
    settings = load_settings(message_queue_type="rabbitmq", **given)
    with pytest.raises(ConfigurationError, match=r"UNIQUE_STORE_URL.*postgresql://"):
        store_url(settings, in_process=False)


def test_brokers_in_one_process_have_locks_of_their_own() -> None:
    url, other = (f"liap-memory:///{uuid4().hex}" for _ in range(2))
    one = memory_store(get_broker(url))
    assert memory_store(get_broker(url)) is one
    assert memory_store(get_broker(other)) is not one
    assert memory_store(reset_broker(url)) is not one  # its queues are new, too


FORKED = """
import os
from liap_tasks import UniqueStoreError
from liap_tasks.unique.memory import MemoryStore

store = MemoryStore()
child = os.fork()
if child == 0:
    try:
        store.acquire("key", "call", 1)
    except UniqueStoreError as error:
        os._exit(42 if str(os.getppid()) in str(error) else 1)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_that_the_locks_are_not_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "42"


@pytest.mark.parametrize("url", ["postgresql://liap@127.0.0.1:1/liap", "redis://127.0.0.1:1/0", "sqlite:////no/such/x"])
def test_a_store_that_is_away_is_one_error_that_names_it(url: str) -> None:
    if url.startswith("redis"):
        pytest.importorskip("redis")
    store = open_store(url)
    with pytest.raises(UniqueStoreError) as away:
        store.acquire("key", "call", LEASE)
    assert away.value.store.split("://")[1] in url
    assert "\n" not in str(away.value)
    assert away.value.__cause__ is not None
    store.close()
