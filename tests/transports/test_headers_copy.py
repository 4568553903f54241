"""Headers are copied at the border: deeply, to plain values, and nothing that no broker could carry."""

from __future__ import annotations

import copy
import enum
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports import InvalidArgumentError
from transports.headers import copy_table

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.datetimes()
    | st.decimals(allow_nan=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(table=st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_a_copy_is_equal_and_shares_nothing_that_can_change(table: dict[str, Any]) -> None:
    before = copy.deepcopy(table)

    copied = copy_table(table)
    assert copied == table
    spoil(copied)

    assert table == before


def spoil(value: Any) -> None:
    if isinstance(value, dict):
        for inner in value.values():
            spoil(inner)
        value["spoilt"] = True
    elif isinstance(value, list):
        for inner in value:
            spoil(inner)
        value.append("spoilt")


class Colour(str, enum.Enum):  # noqa: UP042 - its str() is the member's name, which is the trap
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 7


class Text(str):
    __slots__ = ()


class Ratio(float):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Colour.RED, "red"), (Level.HIGH, 7), (Text("a"), "a"), (Ratio(0.5), 0.5), (True, True), ((1, (2,)), [1, [2]])],
)
def test_what_only_looks_like_a_plain_value_becomes_one(value: Any, plain: Any) -> None:
    for table in ({"h": value}, {"h": {"deep": [value]}}):
        copied: Any = copy_table(table)["h"]
        found = copied["deep"][0] if isinstance(copied, dict) else copied

        assert found == plain
        assert type(found) is type(plain)


class Moment(datetime):
    pass


class Raw(bytes):
    __slots__ = ()


class Amount(Decimal):
    __slots__ = ()


CARRIED = [
    datetime(2024, 1, 1, tzinfo=UTC),
    Moment(2024, 1, 1),
    Decimal("1.5"),
    Amount("1.5"),
    b"bytes",
    Raw(b"b"),
    None,
]


@pytest.mark.parametrize("value", CARRIED)
def test_what_amqp_tables_carry_is_kept(value: Any) -> None:
    assert copy_table({"h": value}) == {"h": value}


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, Exception("no"), lambda: None])
@pytest.mark.parametrize("place", ["top", "list", "dict"])
def test_an_object_is_refused_by_the_name_of_its_header(value: Any, place: str) -> None:
    table = {"top": value, "list": [1, value], "dict": {"deep": value}}

    with pytest.raises(InvalidArgumentError) as refusal:
        copy_table({place: table[place]})

    assert refusal.value.name == ("header dict.deep" if place == "dict" else f"header {place}")
    assert refusal.value.value is value
    assert "datetime" in refusal.value.allowed
