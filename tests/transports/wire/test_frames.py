"""Frames come out of a stream as they went in, however it is cut; a reader holds no more than it must."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgpack import ExtType, Timestamp

from transports.engine import ChannelRefusal, EngineError, InvalidArgument, QueueFull
from transports.wire.frames import FrameError, FrameReader, pack_frame
from transports.wire.protocol import fits
from transports.wire.refusals import BrokerDefect, pack_refusal, shown, unpack_refusal

FRAMES = st.lists(st.lists(st.integers(0, 300) | st.binary(max_size=30), min_size=1, max_size=4), max_size=8)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(place % (len(stream) + 1) for place in cuts)})
    return [stream[start:end] for start, end in pairwise(places)]


@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=10))
def test_frames_come_out_the_same_wherever_the_stream_is_cut(frames: list[list[Any]], cuts: list[int]) -> None:
    reader = FrameReader(10_000)
    found = []
    for piece in cut(b"".join(pack_frame(tuple(frame)) for frame in frames), cuts):
        buffer = bytearray(piece)
        found.extend(reader.feed(memoryview(buffer)))
        buffer[:] = bytes(len(buffer))  # it may be used again
    assert found == frames
    assert reader.unfinished == 0


@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=10), st.integers(1, 3))
def test_frames_that_were_left_come_first_the_next_time(frames: list[list[Any]], cuts: list[int], most: int) -> None:
    reader = FrameReader(10_000)
    found: list[list[Any]] = []

    def read_some(data: bytes) -> bool:
        following = reader.feed(data)
        for count, frame in enumerate(following, 1):
            found.append(frame)
            if count == most:
                following.close()
                return True
        return False

    for piece in cut(b"".join(pack_frame(tuple(frame)) for frame in frames), cuts):
        read_some(piece)
    while read_some(b""):
        pass
    assert found == frames


def test_a_reader_counts_the_frames_that_came_in_part() -> None:
    reader = FrameReader(1_000)
    frame = pack_frame(("x" * 100,))
    list(reader.feed(frame))
    assert (reader.begun, reader.unfinished) == (0, 0)
    list(reader.feed(frame[:50]))
    list(reader.feed(frame[50:60]))
    assert (reader.begun, reader.unfinished) == (1, 60)
    assert list(reader.feed(frame[60:])) == [["x" * 100]]
    assert reader.unfinished == 0


def test_a_length_above_the_bound_is_refused_with_its_first_four_bytes() -> None:
    reader = FrameReader(1_000)
    assert list(reader.feed(struct.pack(">I", 1_001)[:3])) == []
    with pytest.raises(FrameError, match="a frame of 1001 bytes; at most 1000 are taken"):
        list(reader.feed(struct.pack(">I", 1_001)[3:]))


@pytest.mark.parametrize("code", [0, 1, 5, 127])
def test_a_value_of_an_extension_type_is_no_frame(code: int) -> None:
    with pytest.raises(FrameError, match=f"a frame with a value of extension type {code}"):
        list(FrameReader(1_000).feed(pack_frame((1, {"x": [ExtType(code, b"")]}))))


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth > 1 else []


@pytest.mark.parametrize(
    ("values", "types", "fit"),
    [
        (["q", True], (str, bool), True),
        (["q"], (str, bool), False),
        (["q", 1], (str, bool), False),
        (["q", True], (str, int), False),
        ([5, 0.5], ((int, float), (int, float)), True),
        ([True], ((int, float),), False),
        ([[1, 2]], (list,), True),
        ([[1, "2"]], (list,), False),
        ([[{}]], (list,), False),
        ([{"x": 1}], (dict,), True),
        ([{1: 1}], (dict,), False),
        ([{"x": {"y": [1, None, b"z", 0.5, {}]}}], (dict,), True),
        ([{"x": {1: 1}}], (dict,), False),
        ([{"x": [Timestamp(1)]}], (dict,), False),
        ([{"x": nested(63)}], (dict,), True),
        ([{"x": nested(64)}], (dict,), False),
        ([None], ((dict, type(None)),), True),
    ],
)
def test_arguments_fit_their_types(values: list[Any], types: tuple[Any, ...], fit: bool) -> None:
    assert fits(values, types) is fit


@pytest.mark.parametrize(
    "error",
    [ChannelRefusal(404, "NOT_FOUND - no queue"), InvalidArgument("x", 5, "six"), QueueFull("q", 3, 0.5)],
)
def test_a_refusal_arrives_as_it_was(error: EngineError) -> None:
    arrived = unpack_refusal(pack_refusal(error))
    assert type(arrived) is type(error)
    assert arrived.args == error.args


def test_a_value_that_cannot_travel_arrives_as_its_text() -> None:
    arrived = unpack_refusal(pack_refusal(InvalidArgument("x", [1, {}], "a number")))
    assert str(arrived) == "x=[1, {}] is not possible here; allowed: a number"


def test_a_defect_arrives_with_its_name() -> None:
    arrived = unpack_refusal(pack_refusal(KeyError("k")))
    assert isinstance(arrived, BrokerDefect)
    assert str(arrived) == "KeyError: 'k'"


@given(st.recursive(st.text() | st.binary() | st.integers(), lambda inner: st.lists(inner, max_size=50), max_leaves=50))
def test_what_people_are_shown_of_a_value_is_short_and_one_line(value: Any) -> None:
    assert "\n" not in shown(value)
    assert len(shown(value)) < 5_000


def test_a_megabyte_is_shown_in_a_line() -> None:
    assert len(shown("\n" * 1_000_000)) < 500
    assert len(shown([["x" * 1_000_000] * 1_000_000])) < 2_000
