"""Arguments of declarations, bindings and consumers: the same are taken, and refused, in process and over a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection

from tests.transports.in_process_client import declare, publish, ready
from transports import InvalidArgumentError, discard_broker


class Colour(StrEnum):
    RED = "red"


@pytest.fixture(params=["in process", "served"])
def channel(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "served":
        url = f"liap-broker://{request.getfixturevalue('served').address}"
    else:
        url = f"liap-memory:///{uuid4().hex}"
    with Connection(url) as connection:
        yield connection.channel()
    if request.param == "in process":
        discard_broker(url)


USES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "queue": lambda channel, table: channel.queue_declare("other", arguments=table),
    "exchange": lambda channel, table: channel.exchange_declare("x", "headers", arguments=table),
    "binding": lambda channel, table: channel.queue_bind("q", "amq.headers", "", arguments=table),
    "consumer": lambda channel, table: channel.basic_consume("q", callback=print, arguments=table),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("value", [datetime(2026, 1, 1, tzinfo=UTC), Decimal("1.5"), {1, 2}], ids=str)
def test_a_value_that_is_not_compared_is_refused_by_name(channel: Any, use: Any, value: object) -> None:
    declare(channel, "q")

    with pytest.raises(InvalidArgumentError) as refused:
        use(channel, {"x-a": {"deep": [value]}})

    assert refused.value.name == "argument x-a.deep"
    assert refused.value.allowed == "None, bool, int, float, str, bytes, and lists and dicts of them"


def test_a_member_of_an_enumeration_is_its_value(channel: Any) -> None:
    declare(channel, "q")
    channel.queue_bind("q", "amq.headers", "", arguments={"colour": Colour.RED, "sizes": (1, 2)})

    for colour in ("red", "blue"):
        publish(channel, "", colour.encode(), exchange="amq.headers", headers={"colour": colour, "sizes": [1, 2]})

    assert ready(channel, "q") == [b"red"]
