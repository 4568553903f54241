"""Calls of a unique task that get the answer of the call that has their key, however narrowly they meet it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

from liap_tasks import EmbeddedWorker, Unique
from tests.liap_tasks.conftest import DEADLINE, wait_until
from tests.liap_tasks.unique.conftest import Settling

SHARING = Unique(key="room", on_conflict="return")


def two_calls(settling: Settling, monkeypatch: pytest.MonkeyPatch, *args: str) -> tuple[Any, Any]:
    """Make a call, and a second that finds its key taken and looks for its answer when that has come already."""
    settle = settling.make(unique=SHARING)
    settling.gate.clear()
    replies = settling.app.replies
    first = settle.submit(args)
    settling.wait_until_begun()
    share = replies.share

    def share_too_late(task_id: str) -> Future[Any] | None:
        settling.gate.set()
        first.answered.result(DEADLINE)
        return share(task_id)

    monkeypatch.setattr(replies, "share", share_too_late)
    return first, settle.submit(args)


def test_a_call_shares_an_answer_that_arrived_while_it_was_published(
    settling: Settling, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedWorker(settling.app):
        first, second = two_calls(settling, monkeypatch, "r1")
        assert first.answered.result(DEADLINE)["result"] == "well"
        assert second.id == first.id
        assert second.get(DEADLINE) == "well"
    assert settling.seen == ["well"]


def test_a_failure_that_arrived_while_a_call_was_published_is_shared_too(
    settling: Settling, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedWorker(settling.app):
        for result in two_calls(settling, monkeypatch, "r1", "badly"):
            with pytest.raises(LookupError, match="r1"):
                result.get(DEADLINE)


def test_a_call_shares_the_answer_that_the_first_caller_did_not_wait_for(settling: Settling) -> None:
    settle = settling.make(unique=SHARING)
    settling.gate.clear()
    waiting = settling.app.replies._waiting

    async def scenario() -> str:
        await settle.adelay("r1")  # its result is dropped
        assert not waiting
        patient = asyncio.create_task(settle.call("r1", timeout=DEADLINE))
        await asyncio.to_thread(settling.wait_until_begun)
        await asyncio.to_thread(wait_until, lambda: waiting)
        settling.gate.set()
        answer: str = await patient
        return answer

    with EmbeddedWorker(settling.app):
        assert asyncio.run(scenario()) == "well"
    assert settling.seen == ["well"]


def test_answers_are_kept_for_others_only_while_one_is_published(settling: Settling) -> None:
    settle = settling.make(unique=SHARING)
    replies = settling.app.replies
    with EmbeddedWorker(settling.app):
        early = replies.overhear()
        assert [settle.submit((f"r{number}",)).get(DEADLINE) for number in range(3)] == ["well"] * 3
        late = replies.overhear()
        last = settle.submit(("r3",))
        assert last.get(DEADLINE) == "well"
        assert len(replies._overheard) == 4
        early.end()
        assert list(replies._overheard) == [last.id]
        late.end()
        late.end()
        assert not replies._overheard
        assert settle.submit(("r4",)).get(DEADLINE) == "well"
        assert not replies._overheard


def test_calls_that_nobody_waits_for_are_remembered_within_bounds(
    settling: Settling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liap_tasks.replies.ABANDONED_MAX", 2)
    replies = settling.app.replies
    for task_id in ("one", "two", "three"):
        replies.forget(task_id, replies.expect(task_id))
    assert replies.share("one") is None
    assert replies.share("two") is not None
    assert replies.share("three") is not None
