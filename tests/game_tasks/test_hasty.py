"""The hasty stand-in: it may play badly, but never against the rules."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from game_tasks import hasty
from game_tasks.moves import DecisionKind, Move
from game_tasks.views import PlayerView
from tests.game_tasks.games import walk


def hasty_answer(view: PlayerView, kind: DecisionKind) -> Move:
    if kind is DecisionKind.REDEAL:
        return hasty.answer_redeal(view)
    if kind is DecisionKind.DECLARE:
        return hasty.choose_declaration(view)
    return hasty.choose_play(view)


@settings(max_examples=10, deadline=None)
@given(st.integers(min_value=0, max_value=10**9))
def test_hasty_moves_are_legal_from_the_first_to_the_last(seed: int) -> None:
    *_, (_, _, last) = walk(seed, hasty_answer)
    assert last.state.pending is None
