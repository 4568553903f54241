"""What the store keeps and how a letter's state changes, on SQLite and PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from liap_tasks.dead_letter_store import AuditEntry, DeadLetterStore, Letter, LetterFilter
from liap_tasks.errors import LetterInUseError, LetterNotFoundError
from tests.liap_tasks.conftest import Clock
from tests.liap_tasks.dead_letter_store.conftest import letter


def ids(letters: list[Letter]) -> list[str]:
    return [one.id for one in letters]


def test_a_letter_comes_back_as_it_was_recorded(store: DeadLetterStore, clock: Clock) -> None:
    given = letter(
        detail="failed on attempt 3 of 3",
        exchange="games",
        routing_key="games.settle",
        attempts=[{"number": 1, "at": 1.5, "error": "ValueError", "message": "no"}],
        headers={"x-death": [{"time": datetime(2026, 1, 2, tzinfo=UTC), "count": 1}], "price": Decimal("1.10")},
        properties={"priority": 7, "blob": b"\xff\x00"},
        body=b"\xff\x00 not text",
        correlation_id="req-456",
        replayed_from="parent",
        replays=2,
        expires_at=1_800_000_500.0,
    )
    assert store.record([given]) == 1
    found = store.get("l1")
    assert (found.first_seen, found.last_seen, found.size) == (clock.now, clock.now, len(given.body))
    for name in Letter.__dataclass_fields__:
        if name not in ("first_seen", "last_seen", "size"):
            assert getattr(found, name) == getattr(given, name), name


def test_the_same_death_recorded_twice_is_one_letter_seen_again(store: DeadLetterStore, clock: Clock) -> None:
    store.record([letter("a")])
    began, clock.now = clock.now, clock.now + 60
    assert store.record([letter("a"), letter("b"), letter("b")]) == 1
    again = store.get("a")
    assert (again.first_seen, again.last_seen) == (began, clock.now)
    assert store.count() == 2


def test_what_a_database_cannot_hold_does_not_keep_a_letter_out(store: DeadLetterStore) -> None:
    store.record([letter(task="t" * 1000, message="nul \0 and half \ud800", headers={"odd": "\0\ud800", "set": {1}})])
    found = store.get("l1")
    assert found.task == "t" * 255
    assert found.message == "nul \N{REPLACEMENT CHARACTER} and half ?"
    assert found.headers["odd"] == "\0\ud800"


def test_headers_that_look_like_kombu_s_own_marks_can_be_read_again(store: DeadLetterStore) -> None:
    store.record([letter(headers={"odd": {"__type__": "nonsense", "__value__": 1}})])
    assert store.get("l1").headers["odd"] == {"__type__": "nonsense", "__value__": 1}


def test_a_letter_that_is_not_there_is_an_error_with_its_id(store: DeadLetterStore) -> None:
    with pytest.raises(LetterNotFoundError, match="nobody"):
        store.get("nobody")
    with pytest.raises(LetterNotFoundError, match="nobody"):
        store.list(after="nobody")


def test_nothing_is_made_before_the_first_use(tmp_path: Path) -> None:
    store = DeadLetterStore(f"sqlite:///{tmp_path}/later.sqlite3")
    assert list(tmp_path.iterdir()) == []
    assert store.count() == 0
    assert (tmp_path / "later.sqlite3").exists()
    store.close()


def test_a_store_in_memory_is_one_for_all_threads() -> None:
    store = DeadLetterStore("sqlite://")
    threads = [threading.Thread(target=store.record, args=([letter(f"l{number}")],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count() == 8
    store.close()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (LetterFilter(), ["a", "b", "c", "d"]),
        (LetterFilter(ids=("b", "d", "x")), ["b", "d"]),
        (LetterFilter(reasons=("expired",)), ["b"]),
        (LetterFilter(reasons=("expired", "rejected")), ["b", "c"]),
        (LetterFilter(tasks=("game.settle",), queues=("games", "bots")), ["a", "d"]),
        (LetterFilter(queues=("bots",)), ["c", "d"]),
        (LetterFilter(states=("scheduled",)), ["d"]),
        (LetterFilter(states=("dead", "scheduled"), tasks=("game.settle",)), ["a", "d"]),
        (LetterFilter(error="stake"), ["a", "d"]),
        (LetterFilter(error="keyerror"), ["b"]),
        (LetterFilter(error="100%_"), ["c"]),
        (LetterFilter(correlation_id="req"), ["c"]),
        (LetterFilter(died_after=10.0), ["b", "c", "d"]),
        (LetterFilter(died_before=30.0, died_after=10.0), ["b"]),
        (LetterFilter(due_before=99.0), []),
        (LetterFilter(due_before=100.0), ["d"]),
    ],
)
def test_each_filter_chooses_what_it_says(store: DeadLetterStore, where: LetterFilter, expected: list[str]) -> None:
    store.record(
        [
            letter("a", died_at=10.0),
            letter(
                "b", died_at=20.0, reason="expired", task="game.bot", exception="KeyError", message="", traceback=None
            ),
            letter(
                "c",
                died_at=30.0,
                reason="rejected",
                task=None,
                queue="bots",
                exception=None,
                message="100%_ of it",
                traceback=None,
                correlation_id="req",
            ),
            letter("d", died_at=40.0, queue="bots", state="scheduled", due_at=100.0),
        ]
    )
    assert ids(store.list(where)) == expected
    assert ids(store.list(where, newest_first=True)) == expected[::-1]
    assert store.count(where) == len(expected)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize(
    "where", [LetterFilter(), LetterFilter(states=("dead",)), LetterFilter(tasks=("game.settle",))]
)
def test_pages_follow_each_other_even_among_letters_that_died_together(
    store: DeadLetterStore, where: LetterFilter, newest_first: bool
) -> None:
    store.record([letter(f"l{number:02}", died_at=float(number // 4)) for number in range(20)])
    seen: list[str] = []
    while page := store.list(where, limit=3, after=seen[-1] if seen else None, newest_first=newest_first):
        seen += ids(page)
    assert seen == sorted((f"l{number:02}" for number in range(20)), reverse=newest_first)


def test_a_filter_with_a_state_or_a_type_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'alive'.*dead, scheduled"):
        LetterFilter(states=("alive",))
    with pytest.raises(ValueError, match="ids must be a tuple"):
        LetterFilter(ids="abc")  # type: ignore[arg-type]


def test_statistics_count_what_waits_and_every_state(store: DeadLetterStore, clock: Clock) -> None:
    assert store.stats().oldest is None
    store.record(
        [
            letter("a", died_at=30.0),
            letter("b", died_at=20.0, reason="expired", task=None, state="scheduled", due_at=1.0),
            letter("c", died_at=10.0, state="replayed"),
        ]
    )
    stats = store.stats()
    assert stats.total == 2
    assert stats.by_state == {"dead": 1, "scheduled": 1, "replayed": 1}
    assert stats.by_reason == {"retries_exhausted": 1, "expired": 1}
    assert stats.by_task == {"game.settle": 1, "": 1}
    assert stats.by_queue == {"games": 2}
    assert stats.oldest == 20.0


def test_a_claimed_letter_is_nobody_else_s_until_it_is_released(store: DeadLetterStore) -> None:
    store.record([letter("a", died_at=1.0), letter("b", died_at=2.0), letter("c", died_at=3.0)])
    assert ids(store.claim(LetterFilter(), claimant="one", lease=60, limit=2)) == ["a", "b"]
    assert ids(store.claim(LetterFilter(), claimant="two", lease=60)) == ["c"]
    assert store.claim(LetterFilter(), claimant="three", lease=60) == []
    assert store.release(["a", "c"], claimant="one") == 1
    assert ids(store.claim(LetterFilter(), claimant="three", lease=60)) == ["a"]


def test_a_claim_ends_with_its_lease(store: DeadLetterStore, clock: Clock) -> None:
    store.record([letter()])
    store.claim(LetterFilter(), claimant="killed", lease=60)
    clock.now += 59
    assert store.claim(LetterFilter(), claimant="next", lease=60) == []
    clock.now += 1
    assert ids(store.claim(LetterFilter(), claimant="next", lease=60)) == ["l1"]
    assert store.mark_replayed(["l1"], claimant="killed", replay_id="r") == 0
    assert store.mark_replayed(["l1"], claimant="next", replay_id="r") == 1


def test_claims_from_many_threads_never_overlap(open_store: Callable[[], DeadLetterStore]) -> None:
    open_store().record([letter(f"l{number}", died_at=float(number)) for number in range(300)])
    taken: list[str] = []
    stores = [open_store() for _ in range(2)]

    def claim_all(name: str, store: DeadLetterStore) -> None:
        while letters := store.claim(LetterFilter(), claimant=name, lease=60, limit=7):
            taken.extend(ids(letters))
        # PostgreSQL passes over what others hold: look again when they have ended.

    threads = [
        threading.Thread(target=claim_all, args=(f"{number}-{thread}", store))
        for number, store in enumerate(stores)
        for thread in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claim_all("last", stores[0])
    assert len(taken) == len(set(taken)) == 300


def test_a_replayed_letter_keeps_when_and_by_which_run_and_is_not_claimed_again(
    store: DeadLetterStore, clock: Clock
) -> None:
    store.record([letter(state="scheduled", due_at=1.0)])
    store.claim(LetterFilter(), claimant="me", lease=60)
    store.mark_replayed(["l1"], claimant="me", replay_id="run-1")
    found = store.get("l1")
    assert (found.state, found.replayed_at, found.replay_id, found.due_at) == ("replayed", clock.now, "run-1", None)
    clock.now += 1000
    assert store.claim(LetterFilter(), claimant="me", lease=60) == []
    assert ids(store.list(LetterFilter(replay_id="run-1"))) == ["l1"]


def test_letters_that_came_back_are_counted_by_what_they_died_of_again(store: DeadLetterStore) -> None:
    store.record([letter("a"), letter("b"), letter("c"), letter("d", exception=None)])
    store.claim(LetterFilter(), claimant="me", lease=60)
    store.mark_replayed(["a", "b", "c", "d"], claimant="me", replay_id="run-1")
    store.record(
        [
            letter("a2", replayed_from="a"),
            letter("b2", replayed_from="b", exception="KeyError"),
            letter("d2", replayed_from="d", exception=None),
        ]
    )
    assert store.came_back("run-1") == {"ValueError": 1, "retries_exhausted": 1}
    assert store.get("a").replayed_as == "a2"
    assert store.get("c").replayed_as is None


def test_a_letter_is_scheduled_and_the_schedule_cancelled(store: DeadLetterStore) -> None:
    store.record([letter("a"), letter("b"), letter("c", state="replayed")])
    assert store.next_due() is None
    assert store.schedule(LetterFilter(ids=("a", "c")), 500.0) == 1
    assert store.schedule(LetterFilter(ids=("b",)), 400.0) == 1
    assert (store.get("a").state, store.get("a").due_at) == ("scheduled", 500.0)
    assert store.next_due() == 400.0
    assert store.cancel_schedule(LetterFilter()) == 2
    assert (store.get("a").state, store.get("a").due_at) == ("dead", None)
    assert store.next_due() is None


def test_a_purged_letter_has_lost_its_content_but_not_its_story(store: DeadLetterStore, clock: Clock) -> None:
    store.record([letter("a", headers={"id": "x"}, properties={"priority": 1}), letter("b")])
    assert store.purge(LetterFilter(ids=("a",))) == 1
    found = store.get("a")
    assert (found.body, found.headers, found.properties, found.traceback) == (b"", {}, {}, None)
    assert (found.state, found.purged_at, found.reason, found.message) == (
        "purged",
        clock.now,
        "retries_exhausted",
        "no such stake",
    )
    assert ids(store.list()) == ["b"]
    assert ids(store.list(LetterFilter(states=("purged",)))) == ["a"]
    assert store.purge(LetterFilter(states=("purged",))) == 0


def test_a_letter_that_is_being_sent_is_neither_purged_nor_scheduled_nor_edited(store: DeadLetterStore) -> None:
    store.record([letter(expires_at=1.0)])
    store.claim(LetterFilter(), claimant="me", lease=60)
    assert store.purge(LetterFilter()) == 0
    assert store.purge_expired(2.0) == 0
    assert store.schedule(LetterFilter(), 1.0) == 0
    with pytest.raises(LetterInUseError):
        store.edit("l1", who="me", changes={"body": b"{}"})
    assert store.audit("l1") == []


def test_many_letters_are_changed_in_steps_and_each_once(
    store: DeadLetterStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liap_tasks.dead_letter_store.store.STEP", 3)
    store.record([letter(f"l{number:02}", died_at=float(-number), expires_at=clock.now) for number in range(10)])
    assert store.schedule(LetterFilter(), 5.0) == 10
    assert store.cancel_schedule(LetterFilter()) == 10
    assert store.purge(LetterFilter(ids=("l00", "l01", "l02", "l03"))) == 4
    assert store.purge_expired(clock.now) == 6
    assert store.forget_purged(clock.now + 1) == 10


def test_letters_whose_time_is_up_are_purged_and_later_forgotten(store: DeadLetterStore, clock: Clock) -> None:
    store.record([letter("a", expires_at=clock.now + 10), letter("b", expires_at=clock.now + 11), letter("c")])
    store.edit("a", who="anna", changes={"queue": "bots"})
    clock.now += 10
    assert store.purge_expired(clock.now) == 1
    assert store.purge_expired(clock.now) == 0
    assert store.stats().by_state == {"purged": 1, "dead": 2}
    assert store.forget_purged(clock.now) == 0
    assert store.forget_purged(clock.now + 1) == 1
    assert store.audit("a") == []
    with pytest.raises(LetterNotFoundError):
        store.get("a")


def test_an_edit_is_noted_with_what_was_there_before(store: DeadLetterStore, clock: Clock) -> None:
    store.record([letter(headers={"argsrepr": "x"})])
    edited = store.edit("l1", who="anna", changes={"body": b"\xff", "headers": {}, "queue": "bots"})
    assert (edited.body, edited.size, edited.headers, edited.queue) == (b"\xff", 1, {}, "bots")
    (entry,) = store.audit("l1")
    assert (entry.who, entry.action, entry.at) == ("anna", "edit", clock.now)
    assert entry.before == {"body": b'[["game-2", -1], {}, {}]', "headers": {"argsrepr": "x"}, "queue": "games"}
    assert entry.after == {"body": b"\xff", "headers": {}, "queue": "bots"}
    store.add_audit([AuditEntry(letter_id="l1", at=5.0, who="bob", action="replay", after={"queue": "games"})])
    assert [one.who for one in store.audit("l1")] == ["anna", "bob"]


@pytest.mark.parametrize("changes", [{}, {"state": "dead"}])
def test_only_what_makes_the_message_can_be_edited(store: DeadLetterStore, changes: dict[str, Any]) -> None:
    store.record([letter()])
    with pytest.raises(ValueError, match="can be edited"):
        store.edit("l1", who="me", changes=changes)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
# Python 3.12 and later warn of forking a process with threads, which is what is tried here.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(store: DeadLetterStore) -> None:
    store.record([letter("parent")])
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: store.record([letter("child")]))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert store.record([letter("parent again")]) == 1
    assert store.count() == 3
