"""The quick text of arguments is Celery's, to the letter."""

from __future__ import annotations

from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from hypothesis import example, given
from hypothesis import strategies as st

from liap_tasks.quick_repr import quick_repr

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4)
anything = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers())
    ),
    max_leaves=30,
)


@given(anything, st.integers(1, 200), st.integers(1, 5))
@example(["abc def", {"k": ("v",)}], 9, 3)
@example([[[[1]]]], 100, 3)
@example(("it's",), 3, 3)
def test_the_text_is_celery_s_at_any_length_and_depth(value: Any, max_length: int, max_levels: int) -> None:
    assert quick_repr(value, max_length, max_levels) == saferepr(value, max_length, max_levels)


@pytest.mark.parametrize("levels", [1, 3])
def test_what_contains_itself_is_written_as_celery_does(levels: int) -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert quick_repr(loop, 100, levels) == saferepr(loop, 100, levels)


def test_a_long_text_is_cut_where_celery_cuts_it() -> None:
    view = {"room": "room-1", "hand": [f"piece {number}" for number in range(500)]}
    text = quick_repr((view,), 1024, 3)
    assert text == saferepr((view,), 1024, 3)
    assert len(text) < 1100
