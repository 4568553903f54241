"""A child that is forked while another thread is at work: the child waits for nobody who is not there."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Exchange

from liap_tasks import EventExchange, LiapApp, lane
from liap_tasks.calls import AwaitableResult
from tests.liap_tasks.conftest import DEADLINE
from tests.transports.forking import in_child
from tests.transports.in_process_client import in_thread
from transports.broker import BrokerThread

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def app(tmp_path: Path, new_app: Callable[..., LiapApp]) -> Iterator[LiapApp]:
    with BrokerThread(str(tmp_path / "b.sock")) as broker:
        yield new_app(message_queue_url=f"liap-broker://{broker.address}")


class Pause:
    """A place at which this process stops, and its children do not."""

    def __init__(self) -> None:
        self.reached, self.over = threading.Event(), threading.Event()
        self._process = os.getpid()

    def before(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Stop before ``work``."""

        def paused(*arguments: Any, **options: Any) -> Any:
            if os.getpid() == self._process:
                self.reached.set()
                assert self.over.wait(DEADLINE)
            return work(*arguments, **options)

        return paused


def test_a_child_calls_while_its_parent_is_connecting(
    app: LiapApp, stats: Callable[..., dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(name="tests.nothing", shared=False)
    def nothing() -> None: ...

    pause = Pause()
    monkeypatch.setattr(lane, "LaneChannel", pause.before(lane.LaneChannel))
    parent_s = in_thread(nothing.delay)
    assert pause.reached.wait(DEADLINE)

    assert in_child(lambda: str(nothing.apply_async(task_id="child-s").id)) == "child-s"

    pause.over.set()
    parent_s()
    assert stats(app)["ready"] == 2


def test_a_child_publishes_an_event_while_its_parent_declares_the_queues(
    app: LiapApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = EventExchange(app, "tests.events")
    pause = Pause()
    monkeypatch.setattr(Exchange, "declare", pause.before(Exchange.declare))
    parent_s = in_thread(lambda: events.publish("a", {}))
    assert pause.reached.wait(DEADLINE)

    assert in_child(lambda: events.publish("a", {}, event_id="child-s")) == "child-s"

    pause.over.set()
    parent_s()


def test_a_child_drops_the_handle_of_a_call_while_its_parent_takes_an_answer(app: LiapApp) -> None:
    @app.task(name="tests.nothing", shared=False)
    def nothing() -> None: ...

    async def publish() -> AwaitableResult:
        return await nothing.aapply_async(ignore_result=False)

    handles = [asyncio.run(publish())]
    taken, over = threading.Event(), threading.Event()

    def take_answer() -> None:
        with app.replies._lock:
            taken.set()
            assert over.wait(DEADLINE)

    parent_s = in_thread(take_answer)
    assert taken.wait(DEADLINE)

    def drop() -> str:
        handles.clear()
        gc.collect()
        return "dropped"

    assert in_child(drop) == "dropped"

    over.set()
    parent_s()
