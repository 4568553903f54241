"""The quick way to write a body is kombu's, to the byte, and leaves to kombu what is not JSON of its own."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization
from kombu.exceptions import EncodeError
from kombu.utils import json as kombu_json

from liap_tasks.quick_json import encode

special = st.sampled_from(
    [UUID(int=7), Decimal("1.50"), datetime(2026, 1, 2, 3, tzinfo=UTC), date(2026, 1, 2), time(3, 4), b"raw", b"\xff"]
)
bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | special,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(bodies, st.sampled_from(["json", "pickle", "msgpack", "yaml"]))
def test_it_is_what_kombu_writes(body: Any, serializer: str) -> None:
    try:
        expected: Any = serialization.dumps(body, serializer)
    except Exception as error:  # noqa: BLE001 - whatever the serializer does not take
        with pytest.raises(type(error)):
            encode(body, serializer)
    else:
        assert encode(body, serializer) == expected


@pytest.mark.parametrize("body", [object(), {"a": {1, 2}}])
def test_what_cannot_be_written_is_kombu_s_error(body: Any) -> None:
    with pytest.raises(EncodeError, match="not JSON serializable"):
        encode(body, "json")


def test_a_json_that_somebody_has_registered_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Any = serialization.registry  # type: ignore[attr-defined]  # not in the stubs
    monkeypatch.setattr(registry, "_encoders", dict(registry._encoders))
    monkeypatch.setattr(registry, "_decoders", dict(registry._decoders))
    for known in ("type_to_name", "name_to_type"):
        monkeypatch.setattr(registry, known, dict(getattr(registry, known)))
    serialization.register("json", lambda body: f"mine:{json.dumps(body)}", json.loads, "application/json", "utf-8")
    assert encode([1], "json") == ("application/json", "utf-8", "mine:[1]")


def test_a_type_that_kombu_learns_later_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stake:
        pass

    monkeypatch.setattr(kombu_json, "_encoders", dict(kombu_json._encoders))
    kombu_json.register_type(Stake, "stake", lambda _: "two", lambda _: Stake())
    assert encode(Stake(), "json")[2] == '{"__type__": "stake", "__value__": "two"}'


def test_another_serializer_that_does_not_exist_is_kombu_s_error() -> None:
    with pytest.raises(serialization.SerializerNotInstalled):  # type: ignore[attr-defined]  # not in the stubs
        encode([1], "smoke signals")
