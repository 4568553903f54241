"""Events for handlers that are objects: each gets them once, none is disturbed by another, none is lost."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from kombu import pools

from game_tasks import publish, subscribe
from game_tasks.application import app, game_events
from game_tasks.messaging import (
    DeadLetterPolicy,
    DeadLetterQueue,
    GameEvent,
    GameEventHandler,
    GameEventQueue,
    GameEventType,
    InMemoryQueue,
    Message,
    MessagePriority,
    RetryableDeadLetterQueue,
)
from liap_tasks import EmbeddedWorker, create_app, load_settings
from transports import VirtualClock
from transports.broker import BrokerThread


def event(event_type: GameEventType = GameEventType.GAME_STARTED, room: str | None = "r1", **data: Any) -> GameEvent:
    return GameEvent(event_type=event_type, room_id=room, data=data)


class Listener(GameEventHandler):
    """Notes what it gets; fails as often as it is told to."""

    def __init__(self, *args: Any, failures: int = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heard: list[GameEvent] = []
        self.failures = failures

    async def process_event(self, event: GameEvent) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("no microphone")
        self.heard.append(event)


async def test_every_handler_gets_the_events_that_match_once() -> None:
    queue = GameEventQueue()
    games, everything, rooms = Listener(), Listener(), Listener()
    queue.subscribe("game.*", games)
    queue.subscribe("#", everything)
    queue.subscribe("*.created", everything)
    queue.subscribe("room.*", rooms)
    sent = [event(GameEventType.GAME_STARTED), event(GameEventType.ROOM_CREATED), event(GameEventType.TURN_ENDED)]
    for one in sent:
        await queue.publish(one)

    assert await queue.process_events() == 3

    assert games.heard == sent[:1]
    assert sorted(everything.heard, key=sent.index) == sent
    assert rooms.heard == sent[1:2]
    stats = queue.get_stats()
    assert (stats["handled"], stats["unhandled"], stats["failed"], stats["size"]) == (3, 0, 0, 0)


async def test_a_handler_chooses_types_and_rooms() -> None:
    queue = GameEventQueue()
    ends = Listener(event_types={GameEventType.GAME_ENDED})
    here, there = Listener(room_filter="r1"), Listener(room_filter={"r2", "r3"})
    for one in (ends, here, there):
        queue.subscribe("game.*", one)
    for room in ("r1", "r2", None):
        await queue.publish(event(GameEventType.GAME_STARTED, room))
    await queue.publish(event(GameEventType.GAME_ENDED, "r3"))

    await queue.process_events()

    assert [one.event_type for one in ends.heard] == [GameEventType.GAME_ENDED]
    assert [one.room_id for one in here.heard] == ["r1"]
    assert sorted(str(one.room_id) for one in there.heard) == ["r2", "r3"]


async def test_the_events_of_a_room_are_handled_in_their_order_one_at_a_time() -> None:
    queue, running, order = GameEventQueue(max_concurrent=8), set[str](), list[tuple[str, int]]()

    class Slow(GameEventHandler):
        async def process_event(self, event: GameEvent) -> None:
            assert event.room_id is not None
            assert event.room_id not in running
            running.add(event.room_id)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            running.discard(event.room_id)
            order.append((event.room_id, int(str(event.data["n"]))))

    queue.subscribe("#", Slow())
    for number in range(10):
        for room in ("r1", "r2", "r3"):
            await queue.publish(event(room=room, n=number))

    assert await queue.process_events() == 30

    for room in ("r1", "r2", "r3"):
        assert [number for where, number in order if where == room] == list(range(10))


async def test_urgent_events_of_different_rooms_come_first() -> None:
    queue, listener = GameEventQueue(max_concurrent=1), Listener()
    queue.subscribe("#", listener)
    await queue.publish(event(GameEventType.TURN_STARTED, "r1"))
    await queue.publish(event(GameEventType.GAME_STARTED, "r2"))
    await queue.publish(event(GameEventType.TURN_STARTED, "r3"), MessagePriority.CRITICAL)

    await queue.process_events()

    assert [one.room_id for one in listener.heard] == ["r3", "r2", "r1"]


async def test_a_failing_handler_disturbs_no_other_and_its_retry_reaches_it_alone() -> None:
    dlq = DeadLetterQueue("failed_events")
    queue, fine, shaky = GameEventQueue(dlq=dlq), Listener(), Listener(failures=1)
    queue.subscribe("#", fine)
    queue.subscribe("#", shaky, name="shaky")
    sent = event()
    await queue.publish(sent)
    assert await queue.process_events() == 1
    assert (fine.heard, shaky.heard) == ([sent], [])

    [letter] = await dlq.inspect()
    assert (letter.reason, letter.error_message) == ("retries_exhausted", "no microphone")
    assert await dlq.retry(letter.message_id, queue.queue)
    assert await queue.process_events() == 1

    assert (fine.heard, shaky.heard) == ([sent], [sent])
    assert await dlq.size() == 0


async def test_failed_handlers_can_be_retried_by_themselves(clock: VirtualClock) -> None:
    dlq = RetryableDeadLetterQueue("failed_events", DeadLetterPolicy(retry_delay=30))
    queue, shaky = GameEventQueue(dlq=dlq), Listener(failures=2)
    dlq.register_retry_queue(queue.queue.name, queue.queue)
    queue.subscribe("#", shaky)
    await queue.publish(event())
    for delay in (0, 30, 60):
        clock.advance(delay)
        assert await queue.process_events() == 1
    assert len(shaky.heard) == 1


async def test_a_retried_event_whose_handler_is_gone_is_kept() -> None:
    dlq = DeadLetterQueue("failed_events")
    queue = GameEventQueue(dlq=dlq)
    queue.subscribe("#", Listener(failures=1), name="gone")
    await queue.publish(event())
    await queue.process_events()
    [letter] = await dlq.inspect()
    await queue.close()
    later = GameEventQueue(dlq=dlq)
    await dlq.retry(letter.message_id, later.queue)
    await later.process_events()
    assert [entry.error_message for entry in await dlq.inspect()] == ["no handler is subscribed as 'gone'"]


async def test_what_is_no_event_or_of_a_later_version_is_kept_with_its_reason() -> None:
    dlq = DeadLetterQueue("failed_events")
    queue, listener = GameEventQueue(dlq=dlq), Listener()
    queue.subscribe("#", listener)
    await queue.queue.enqueue(Message({"event_type": "game.stolen"}))
    await queue.queue.enqueue(Message({**json.loads(event().model_dump_json()), "schema_version": 99}))
    await queue.process_events()
    assert sorted(entry.reason for entry in await dlq.inspect()) == ["unknown_version", "validation_failed"]
    assert listener.heard == []


async def test_events_go_back_when_the_processing_is_cancelled() -> None:
    queue, begun = GameEventQueue(), asyncio.Event()

    class Hangs(GameEventHandler):
        async def process_event(self, event: GameEvent) -> None:
            begun.set()
            await asyncio.sleep(3600)

    queue.subscribe("#", Hangs())
    sent = event()
    await queue.publish(sent)
    processing = asyncio.create_task(queue.process_events())
    await begun.wait()
    processing.cancel()
    await asyncio.wait([processing])
    await queue.close()

    later, listener = GameEventQueue(), Listener()
    later.subscribe("#", listener)
    assert await later.process_events() == 1
    assert listener.heard == [sent]


@pytest.mark.parametrize("whom", ["what it awaits", "itself"])
async def test_a_handler_that_is_cancelled_from_inside_has_failed_and_the_processing_goes_on(whom: str) -> None:
    class Cancels(GameEventHandler):
        async def process_event(self, event: GameEvent) -> None:
            waiting = asyncio.create_task(asyncio.sleep(3600))
            cancelled = waiting if whom == "what it awaits" else asyncio.current_task()
            assert cancelled is not None
            cancelled.cancel()
            try:
                await waiting
            finally:
                waiting.cancel()

    queue, listener = GameEventQueue(max_concurrent=1), Listener()
    queue.subscribe("game.started", Cancels())
    queue.subscribe("game.ended", listener)
    processing = asyncio.create_task(queue.process_events(math.inf))
    await queue.publish(event())
    await queue.publish(last := event(GameEventType.GAME_ENDED))
    while not listener.heard and not processing.done():
        await asyncio.sleep(0.001)

    assert listener.heard == [last]
    [letter] = await queue.dlq.inspect()
    assert "Cancels.process_event was cancelled from inside" in str(letter.error_message)
    processing.cancel()
    await asyncio.wait([processing])
    assert processing.cancelled()


async def test_processing_waits_for_events_as_long_as_it_is_asked_to() -> None:
    queue, listener = GameEventQueue(), Listener()
    queue.subscribe("#", listener)
    processing = asyncio.create_task(queue.process_events(wait=30))
    await asyncio.sleep(0)
    for number in range(3):
        await GameEventQueue().publish(event(room=f"r{number}"))
    while len(listener.heard) < 3:
        await asyncio.sleep(0.001)
    assert not processing.done()
    processing.cancel()
    await asyncio.wait([processing])


async def test_objects_share_the_events_of_handlers_of_one_name() -> None:
    queues, listeners = [GameEventQueue(max_concurrent=1) for _ in range(2)], [Listener(), Listener()]
    for queue, listener in zip(queues, listeners, strict=True):
        queue.subscribe("#", listener, name="listener")
    for number in range(10):
        await queues[0].publish(event(room=f"r{number}"))
    assert sum(await asyncio.gather(*(queue.process_events() for queue in queues))) == 10
    assert sum(len(listener.heard) for listener in listeners) == 10


async def test_an_event_reaches_the_handlers_of_all_objects_whichever_takes_it() -> None:
    lobby, statistics, games, everything = GameEventQueue(), GameEventQueue(), Listener(), Listener()
    lobby.subscribe("game.*", games)
    statistics.subscribe("#", everything)
    sent = [event(GameEventType.PLAYER_CONNECTED, f"r{number}") for number in range(10)]
    sent += [event(GameEventType.GAME_STARTED, f"r{number}") for number in range(10)]
    for one in sent[::2]:
        await lobby.publish(one)
    assert await lobby.process_events() == 10  # by one alone,
    for one in sent[1::2]:
        await lobby.publish(one)
    assert sum(await asyncio.gather(lobby.process_events(), statistics.process_events())) == 10  # by both

    assert sorted(everything.heard, key=sent.index) == sent
    assert sorted(games.heard, key=sent.index) == sent[10:]
    assert (lobby.get_stats()["unhandled"], statistics.get_stats()["unhandled"]) == (0, 0)


async def test_a_handler_s_failure_is_kept_where_its_own_object_keeps_them() -> None:
    taker, owner = GameEventQueue(), GameEventQueue(dlq=DeadLetterQueue("failed_events"))
    owner.subscribe("#", Listener(failures=1), name="shaky")
    await taker.publish(event())
    assert await taker.process_events() == 1
    assert (await taker.dlq.size(), await owner.dlq.size()) == (0, 1)


async def test_an_object_that_is_closed_gives_and_gets_nothing_until_it_is_used_again() -> None:
    one, other, listener, heard_by_other = GameEventQueue(), GameEventQueue(), Listener(), Listener()
    one.subscribe("#", listener)
    other.subscribe("#", heard_by_other)
    await one.close()
    await other.publish(event())
    await other.process_events()
    assert (len(listener.heard), len(heard_by_other.heard)) == (0, 1)
    await other.publish(event())
    assert await one.process_events() == 1
    assert (len(listener.heard), len(heard_by_other.heard)) == (1, 2)


async def test_a_queue_of_its_own_gets_every_event_too() -> None:
    queues, listeners = [GameEventQueue(), GameEventQueue(queue="statistics")], [Listener(), Listener()]
    for queue, listener in zip(queues, listeners, strict=True):
        queue.subscribe("#", listener)
        await queue.queue.declare()
    sent = event()
    await queues[0].publish(sent)
    assert [await queue.process_events() for queue in queues] == [1, 1]
    assert [listener.heard for listener in listeners] == [[sent], [sent]]


async def test_tasks_and_handlers_hear_of_the_same_events() -> None:
    heard: asyncio.Queue[GameEvent] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    @subscribe("game.*", name="game_tests.hears")
    def hears(event: GameEvent) -> None:
        loop.call_soon_threadsafe(heard.put_nowait, event)

    queue, listener = GameEventQueue(), Listener()
    queue.subscribe("#", listener)
    await queue.queue.declare()
    try:
        with EmbeddedWorker(app, queues=["game_tests.hears"]):
            first, second = event(), event(GameEventType.GAME_ENDED)
            await queue.publish(first)
            assert await heard.get() == first
            publish(second)
            assert await heard.get() == second
        await queue.process_events()
    finally:
        game_events.unsubscribe("game_tests.hears")
        app.tasks.pop("game_tests.hears")
    assert listener.heard == [first, second]


def test_two_handlers_cannot_have_one_name() -> None:
    queue = GameEventQueue()
    assert queue.subscribe("#", Listener()) == "Listener"
    assert queue.subscribe("#", Listener()) == "Listener-2"
    with pytest.raises(ValueError, match="'Listener'"):
        queue.subscribe("#", Listener(), name="Listener")


async def test_a_queue_of_another_name_has_events_of_its_own() -> None:
    own, listener = GameEventQueue("side_events"), Listener()
    own.subscribe("#", listener)
    await GameEventQueue().publish(event())
    await own.publish(event(room="elsewhere"))
    await own.process_events()
    assert [one.room_id for one in listener.heard] == ["elsewhere"]
    app.event_exchanges.pop("side_events")


async def test_an_event_handler_reads_events_from_any_queue() -> None:
    queue, listener, sent = InMemoryQueue("q"), Listener(), event()
    await queue.enqueue(Message(sent))
    await queue.enqueue(Message(json.loads(sent.model_dump_json())))
    while (message := await queue.dequeue()) is not None:
        await listener.handle(message)
        await queue.acknowledge(message.metadata.message_id)
    assert listener.heard == [sent, sent]


async def test_an_event_that_waits_for_its_retry_holds_up_no_other_of_its_room(clock: VirtualClock) -> None:
    dlq = RetryableDeadLetterQueue("failed_events", DeadLetterPolicy(retry_delay=30))
    queue, shaky, fine = GameEventQueue(dlq=dlq), Listener(failures=1), Listener()
    dlq.register_retry_queue(queue.queue.name, queue.queue)
    queue.subscribe("game.started", shaky)
    queue.subscribe("#", fine)
    first, second = event(), event(GameEventType.GAME_ENDED)
    await queue.publish(first)
    await queue.process_events()
    await queue.publish(second)

    await queue.process_events()

    assert fine.heard == [first, second]
    clock.advance(30)
    await queue.process_events()
    assert shaky.heard == [first]


async def test_events_are_processed_over_a_broker_elsewhere(tmp_path: Path) -> None:
    with BrokerThread(str(tmp_path / "b.sock")) as served:
        settings = load_settings(message_queue_url=f"liap-broker://{served.address}", dlq_store_url="none")
        remote = create_app(settings, main="tests", set_as_current=False)
        publisher, queue = GameEventQueue("far_events", app=remote), GameEventQueue("far_events", app=remote)
        listener, shaky = Listener(), Listener(failures=1)
        queue.subscribe("#", listener)
        queue.subscribe("#", shaky)
        await queue.queue.declare()
        processing = asyncio.create_task(queue.process_events(wait=30))
        sent = [event(room=f"r{number}") for number in range(5)]
        for one in sent:
            await publisher.publish(one)
        while len(listener.heard) < 5 or not await queue.dlq.size():
            await asyncio.sleep(0.005)
        processing.cancel()
        await asyncio.wait([processing])

        assert sorted(listener.heard, key=sent.index) == sent
        assert len(shaky.heard) == 4
        [letter] = await queue.dlq.inspect()
        assert letter.error_message == "no microphone"
        for one in (publisher, queue):
            await one.close()
        pools.reset()  # kombu keeps pools for the whole process, by URL
        remote.close()
