"""A task body as a call, and what an edit makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from liap_tasks.dead_letter_store.call import Call, CallChange, call_of

REST = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
CALL = Call(["r1", 3], {"player": "p1"}, REST)


def test_a_body_is_read_and_written_without_loss() -> None:
    assert call_of(CALL.as_body()) == CALL


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"{}", b"[1, 2]", b'["text", {}, {}]', b"[[], [], {}]", b"[[], {}]"]
)
def test_what_is_no_task_body_has_no_call(body: bytes) -> None:
    assert call_of(body) is None


@pytest.mark.parametrize(
    ("change", "args", "kwargs"),
    [
        ({"args": [1]}, [1], {"player": "p1"}),
        ({"kwargs": {}}, ["r1", 3], {}),
        ({"set_args": {1: 4}}, ["r1", 4], {"player": "p1"}),
        ({"set_args": {0: "r2", 2: None}}, ["r2", 3, None], {"player": "p1"}),
        ({"set_kwargs": {"piles": 2}}, ["r1", 3], {"player": "p1", "piles": 2}),
        ({"args": [], "set_args": {0: 9}, "kwargs": {"a": 1}, "set_kwargs": {"a": 2}}, [9], {"a": 2}),
    ],
)
def test_a_change_touches_what_it_names_and_nothing_else(
    change: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
) -> None:
    assert CallChange(**change).applied_to(CALL) == (args, kwargs, REST)
    assert CALL == (["r1", 3], {"player": "p1"}, REST)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "nothing to change"),
        ({"args": "r1"}, "args must be a list"),
        ({"kwargs": ["r1"]}, "kwargs must be an object"),
        ({"set_kwargs": {1: 2}}, "must be text"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CallChange(**change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"set_args": {3: 1}}, "no argument 3: the call has 2"),
        ({"args": [object()]}, "must be JSON"),
        ({"set_kwargs": {"player": "\ud800"}}, "in UTF-8"),
    ],
)
def test_a_change_that_does_not_fit_the_call_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CallChange(**change).applied_to(CALL)
