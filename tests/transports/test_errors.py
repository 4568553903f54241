"""The three errors of the transports: their data, their text, across processes, and from the engine."""

from __future__ import annotations

import copy
import pickle

import amqp
import pytest
from kombu.exceptions import KombuError

from transports import BrokerUnavailableError, InvalidArgumentError, QueueFullError, TransportError
from transports.engine import ChannelRefusal, EngineError, InvalidArgument, QueueFull, WouldBlock
from transports.errors import from_engine

ERRORS = [
    (InvalidArgumentError("x-max-length", -1, "0 or more"), ("name", "value", "allowed")),
    (QueueFullError("orders", 10, 2.5), ("queue", "max_length", "retry_after")),
    (BrokerUnavailableError("why, and what to do"), ()),
]


@pytest.mark.parametrize(("error", "fields"), ERRORS)
@pytest.mark.parametrize("transfer", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_an_error_survives_the_way_to_another_process(error: TransportError, fields: tuple[str, ...], transfer) -> None:
    arrived = transfer(error)

    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.args == error.args
    assert [getattr(arrived, field) for field in fields] == [getattr(error, field) for field in fields]


@pytest.mark.parametrize(("error", "fields"), ERRORS)
def test_every_error_is_one_of_kombu(error: TransportError, fields: tuple[str, ...]) -> None:
    assert isinstance(error, TransportError)
    assert isinstance(error, KombuError)


def test_a_full_queue_says_which_how_large_and_when_to_try_again() -> None:
    text = str(QueueFullError("orders", 10, 2.5))

    assert "'orders'" in text
    assert "bound 10" in text
    assert "2.5 s" in text


def test_an_invalid_argument_is_what_rabbitmq_answers_with() -> None:
    error = InvalidArgumentError("x-max-length", -1, "0 or more")

    assert isinstance(error, amqp.PreconditionFailed)
    assert error.reply_code == 406
    assert isinstance(error, amqp.Connection.channel_errors)
    assert str(error) == "x-max-length=-1 is not possible here; allowed: 0 or more"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (403, amqp.AccessRefused),
        (404, amqp.NotFound),
        (405, amqp.ResourceLocked),
        (406, amqp.PreconditionFailed),
        (530, amqp.NotAllowed),
    ],
)
def test_a_refusal_with_a_code_is_the_class_that_amqp_has_for_it(code: int, expected: type[Exception]) -> None:
    error = from_engine(ChannelRefusal(code, "TEXT - because"))

    assert type(error) is expected
    assert getattr(error, "reply_code") == code  # noqa: B009 - not an attribute of every Exception
    assert "TEXT - because" in str(error)


def test_what_the_engine_refuses_keeps_its_data() -> None:
    full = from_engine(QueueFull("q", 5, 0.5))
    invalid = from_engine(InvalidArgument("priority", 300, "0 to 255"))

    assert isinstance(full, QueueFullError)
    assert (full.queue, full.max_length, full.retry_after) == ("q", 5, 0.5)
    assert isinstance(invalid, InvalidArgumentError)
    assert (invalid.name, invalid.value, invalid.allowed) == ("priority", 300, "0 to 255")


@pytest.mark.parametrize("error", [EngineError("odd"), WouldBlock("q")])
def test_anything_else_is_still_a_transport_error(error: EngineError) -> None:
    assert type(from_engine(error)) is TransportError
