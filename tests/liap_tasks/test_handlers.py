"""Chains of handlers and filters: who gets a message, what an error does, what is left when nobody wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from liap_tasks import DeadLetter, DeadLetterReason, EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from liap_tasks.handlers import HandlerChain, TaskMessage
from tests.liap_tasks.conftest import Outcomes

NEVER = RetryPolicy(max_retries=0)


class Named:
    """A handler that notes that it ran."""

    def __init__(
        self, name: str, wants: Callable[[Any], bool] = lambda _: True, error: Exception | None = None
    ) -> None:
        self.name, self.wants, self.error = name, wants, error

    def can_handle(self, message: TaskMessage) -> bool:
        return self.wants(message.payload)

    def handle(self, message: TaskMessage) -> str:
        if self.error is not None:
            raise self.error
        return f"{self.name}: {message.payload}"


class Async(Named):
    async def handle(self, message: TaskMessage) -> str:  # type: ignore[override]  # that is the point
        await asyncio.sleep(0)
        return Named.handle(self, message)


def message(payload: Any = 1) -> TaskMessage:
    return TaskMessage(payload=payload, args=(payload,))


def test_every_handler_that_can_gets_the_message_in_order() -> None:
    chain = HandlerChain(Named("a"), Named("b", lambda p: p > 5), Named("c"))
    assert chain.handle(message(1)) == ["a: 1", "c: 1"]
    assert chain.handle(message(9)) == ["a: 9", "b: 9", "c: 9"]


def test_only_the_first_that_can_when_so_asked() -> None:
    chain = HandlerChain(Named("a", lambda p: p > 5), Named("b"), Named("c"), first_only=True)
    assert chain.handle(message(1)) == ["b: 1"]


def test_a_message_that_nobody_can_handle_is_a_verdict() -> None:
    with pytest.raises(DeadLetter) as caught:
        HandlerChain(Named("a", lambda p: False)).handle(message())
    assert caught.value.reason is DeadLetterReason.NO_HANDLER


def test_an_error_ends_the_chain_unless_it_is_to_go_on() -> None:
    ran: list[Any] = []

    class Last(Named):
        def handle(self, message: TaskMessage) -> str:
            ran.append(self.name)
            return super().handle(message)

    broken = Named("broken", error=KeyError("x"))
    with pytest.raises(KeyError):
        HandlerChain(broken, Last("last")).handle(message())
    assert ran == []
    with pytest.raises(KeyError):
        HandlerChain(broken, Last("last"), stop_on_error=False).handle(message())
    assert ran == ["last"]
    with pytest.raises(ExceptionGroup) as caught:
        HandlerChain(broken, Named("worse", error=ValueError()), stop_on_error=False).handle(message())
    assert [type(error) for error in caught.value.exceptions] == [KeyError, ValueError]


def test_the_hook_hears_of_each_error_and_may_deal_with_it() -> None:
    heard: list[tuple[Any, type[Exception]]] = []

    def hook(message: TaskMessage, error: Exception) -> bool:
        heard.append((message.payload, type(error)))
        return isinstance(error, KeyError)

    broken, worse = Named("broken", error=KeyError("x")), Named("worse", error=ValueError())
    assert HandlerChain(broken, Named("b"), on_error=hook).handle(message()) == ["b: 1"]
    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        HandlerChain(broken, worse, on_error=hook).handle(message())
    assert heard == [(1, KeyError), (1, KeyError), (1, ValueError)]


def test_handlers_may_be_coroutines() -> None:
    chain = HandlerChain(Async("a"), Named("b"))
    assert chain.is_async
    assert asyncio.run(chain.ahandle(message())) == ["a: 1", "b: 1"]
    with pytest.raises(TypeError, match="ahandle"):
        chain.handle(message())


@pytest.mark.parametrize("kind", [Named, Async])
def test_a_chain_is_a_task_with_policies(app: LiapApp, outcomes: Outcomes, kind: type[Named]) -> None:
    even = kind("even", lambda payload: payload % 2 == 0)
    task = HandlerChain(even).as_task(app, shared=False, name="tests.chain", ignore_result=False, retry_policy=NEVER)
    with EmbeddedWorker(app, pool="solo"):
        assert task.delay(2).get(timeout=10) == ["even: 2"]
        task.delay(3)
        assert outcomes.states(2) == ["SUCCESS", "FAILURE"]
    (letter,) = dead_letters.peek(app)
    assert (letter.reason, letter.args) == (DeadLetterReason.NO_HANDLER, (3,))


def test_a_filter_ends_what_it_refuses_before_the_task_begins(app: LiapApp, outcomes: Outcomes) -> None:
    ran: list[int] = []

    def in_my_room(message: TaskMessage) -> bool:
        return message.kwargs["room"] == "r1" and message.headers.get("ring") == "beta"

    @app.task(shared=False, name="tests.filtered", filters=[lambda m: m.payload > 0, in_my_room])
    def filtered(number: int, *, room: str) -> None:
        ran.append(number)

    with EmbeddedWorker(app, pool="solo"):
        for number, room, ring in [(1, "r1", "beta"), (-1, "r1", "beta"), (2, "r2", "beta"), (3, "r1", "main")]:
            filtered.apply_async((number,), {"room": room}, headers={"ring": ring})
        assert outcomes.states(4) == ["SUCCESS", "IGNORED", "IGNORED", "IGNORED"]
    assert ran == [1]
    assert dead_letters.count(app) == 0
    assert app.task_statistics["tests.filtered"]["filtered"] == 3


def test_a_filter_that_fails_fails_the_attempt(app: LiapApp, outcomes: Outcomes) -> None:
    @app.task(shared=False, name="tests.careless", filters=[lambda m: m.kwargs["no such"]], retry_policy=NEVER)
    def careless() -> None: ...

    with EmbeddedWorker(app, pool="solo"):
        careless.delay()
        assert outcomes.states(1) == ["FAILURE"]
    (letter,) = dead_letters.peek(app)
    assert letter.exception == "KeyError"
