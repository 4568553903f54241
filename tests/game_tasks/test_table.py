from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from game_tasks import bot
from game_tasks.events import GameEvent, GameEventType
from game_tasks.moves import DecisionKind, Declaration, IllegalMoveError, Move
from game_tasks.pieces import DECK, Piece
from game_tasks.table import PLAYERS, GameResult, play_game
from game_tasks.views import PlayerView
from tests.game_tasks.games import anything_legal

SEEDS = st.integers(min_value=0, max_value=10**9)
few = settings(max_examples=4, deadline=None)


def ticking_clock() -> Callable[[], datetime]:
    seconds = count()
    return lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(seconds))


def counted_ids() -> Callable[[], UUID]:
    numbers = count(1)
    return lambda: UUID(int=next(numbers))


def recorded_game(seed: int, **options: object) -> tuple[GameResult, list[GameEvent]]:
    events: list[GameEvent] = []
    result = play_game(
        seed,
        anything_legal(random.Random(seed)),
        on_event=events.append,
        now=ticking_clock(),
        new_id=counted_ids(),
        **options,  # type: ignore[arg-type]
    )
    return result, events


@few
@given(SEEDS)
def test_the_same_seed_is_the_same_game_event_for_event(seed: int) -> None:
    assert recorded_game(seed) == recorded_game(seed)


def test_another_seed_is_another_game() -> None:
    def bot_game(seed: int) -> GameResult:
        return play_game(seed, lambda view, kind: bot.decide(view, kind), game_id="g")

    assert bot_game(7).rounds != bot_game(8).rounds


@few
@given(SEEDS)
def test_events_are_numbered_without_gaps_in_the_order_they_happened(seed: int) -> None:
    result, events = recorded_game(seed)

    assert [event.sequence for event in events] == list(range(1, result.events + 1))
    assert all(one.timestamp < other.timestamp for one, other in pairwise(events))
    assert len({event.event_id for event in events}) == len(events)
    assert {(event.room_id, event.game_id) for event in events} == {(result.room_id, result.game_id)}


@few
@given(SEEDS)
def test_every_event_of_a_game_comes_back_from_json_as_it_was(seed: int) -> None:
    _, events = recorded_game(seed)

    for event in events:
        assert GameEvent.model_validate_json(event.model_dump_json()) == event


@few
@given(SEEDS)
def test_events_tell_of_pieces_only_once_they_are_played(seed: int) -> None:
    _, events = recorded_game(seed)

    public = {GameEventType.PIECE_PLAYED, GameEventType.TURN_ENDED}
    names = set(Piece)
    for event in events:
        told = any(name in event.model_dump_json() for name in names)
        assert told is (event.event_type in public)


@few
@given(SEEDS)
def test_events_tell_the_whole_game(seed: int) -> None:
    result, events = recorded_game(seed)
    by_type = Counter(event.event_type for event in events)

    played = Counter(
        piece for event in events if event.event_type is GameEventType.PIECE_PLAYED for piece in event.data["pieces"]
    )  # type: ignore[union-attr]
    rounds = len(result.rounds)
    turns = by_type[GameEventType.TURN_STARTED]
    assert played == Counter({piece.value: copies * rounds for piece, copies in Counter(DECK).items()})
    assert by_type[GameEventType.DECLARATION_MADE] == 4 * rounds
    assert by_type[GameEventType.PIECE_PLAYED] == 4 * turns
    assert by_type[GameEventType.TURN_ENDED] == turns
    assert by_type[GameEventType.REDEAL_REQUESTED] == sum(each.multiplier - 1 for each in result.rounds)
    assert by_type[GameEventType.GAME_STARTED] == by_type[GameEventType.GAME_ENDED] == 1
    ended = next(event for event in events if event.event_type is GameEventType.GAME_ENDED)
    assert ended.data == {"winners": list(result.winners), "scores": result.scores, "rounds": rounds}


def test_a_room_is_opened_before_its_game_and_closed_after_it() -> None:
    _, events = recorded_game(7, bots=PLAYERS[1:])

    first = [(event.event_type, event.player_id) for event in events[:10]]
    last = [(event.event_type, event.player_id) for event in events[-9:]]
    north, east, south, west = PLAYERS
    assert first == [
        (GameEventType.ROOM_CREATED, None),
        (GameEventType.ROOM_JOINED, north),
        (GameEventType.PLAYER_CONNECTED, north),
        (GameEventType.ROOM_JOINED, east),
        (GameEventType.BOT_ACTIVATED, east),
        (GameEventType.ROOM_JOINED, south),
        (GameEventType.BOT_ACTIVATED, south),
        (GameEventType.ROOM_JOINED, west),
        (GameEventType.BOT_ACTIVATED, west),
        (GameEventType.GAME_STARTED, None),
    ]
    assert last == [
        (GameEventType.GAME_ENDED, None),
        (GameEventType.ROOM_LEFT, north),
        (GameEventType.BOT_DEACTIVATED, east),
        (GameEventType.ROOM_LEFT, east),
        (GameEventType.BOT_DEACTIVATED, south),
        (GameEventType.ROOM_LEFT, south),
        (GameEventType.BOT_DEACTIVATED, west),
        (GameEventType.ROOM_LEFT, west),
        (GameEventType.ROOM_CLOSED, None),
    ]


def test_a_move_is_told_before_the_next_one_is_asked_for() -> None:
    told: list[GameEventType] = []
    asked = []
    answered = {GameEventType.DECLARATION_MADE: 0, GameEventType.PIECE_PLAYED: 0}
    legal = anything_legal(random.Random(1))

    def decide(view: PlayerView, kind: DecisionKind) -> Move:
        asked.append(kind)
        assert {event_type: told.count(event_type) for event_type in answered} == answered
        if kind is DecisionKind.DECLARE:
            answered[GameEventType.DECLARATION_MADE] += 1
        elif kind is DecisionKind.PLAY:
            answered[GameEventType.PIECE_PLAYED] += 1
        return legal(view, kind)

    result = play_game(1, decide, on_event=lambda event: told.append(event.event_type))

    assert result.moves == len(asked) >= sum(answered.values()) > 0


def test_an_illegal_answer_ends_the_game_with_an_error_event() -> None:
    events: list[GameEvent] = []
    legal = anything_legal(random.Random(7))

    def decide(view: PlayerView, kind: DecisionKind) -> Move:
        return Declaration(piles=1) if kind is DecisionKind.PLAY else legal(view, kind)

    with pytest.raises(IllegalMoveError, match="the question is play") as caught:
        play_game(7, decide, on_event=events.append)

    assert events[-1].event_type is GameEventType.ERROR_OCCURRED
    assert events[-1].player_id == caught.value.player_id
    assert events[-1].data == {
        "question": "play",
        "error": "IllegalMoveError",
        "message": str(caught.value),
    }


def test_an_error_of_whoever_decides_reaches_the_caller_and_the_room() -> None:
    events: list[GameEvent] = []

    def decide(view: PlayerView, kind: DecisionKind) -> Move:
        raise TimeoutError("no answer in time")

    with pytest.raises(TimeoutError, match="no answer in time"):
        play_game(7, decide, on_event=events.append)

    assert events[-1].event_type is GameEventType.ERROR_OCCURRED
    assert events[-1].data["error"] == "TimeoutError"


def test_a_result_comes_back_from_json_as_it_was() -> None:
    result, _ = recorded_game(7)

    assert GameResult.model_validate_json(result.model_dump_json()) == result


def test_each_game_has_its_own_id_unless_one_is_given() -> None:
    legal = anything_legal(random.Random(1))

    assert play_game(1, legal).game_id != play_game(1, legal).game_id
    assert play_game(1, legal, game_id="final").game_id == "final"
