"""Usage Examples, Example 3: Event Broadcasting."""

from __future__ import annotations

from datetime import datetime

import pytest

from game_tasks.messaging import (
    GameEvent,
    GameEventHandler,
    GameEventQueue,
    GameEventType,
    InMemoryQueue,
    Message,
    MessagePriority,
)


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
async def test_a_state_change_reaches_handlers_and_analytics() -> None:
    event_queue, analytics_queue = GameEventQueue("game_events"), InMemoryQueue("analytics")
    heard: list[GameEvent] = []

    class Listener(GameEventHandler):
        async def process_event(self, event: GameEvent) -> None:
            heard.append(event)

    event_queue.subscribe("state.*", Listener())

    # Broadcast game state changes
    async def broadcast_state_change(game_id, new_state, old_state):
        event = GameEvent(
            event_type=GameEventType.STATE_CHANGED,
            game_id=game_id,
            data={
                'old_state': old_state,
                'new_state': new_state,
                'timestamp': datetime.utcnow().isoformat()
            }
        )

        # Publish with high priority
        await event_queue.publish(event, MessagePriority.HIGH)

        # Also send to analytics queue
        analytics_event = Message(
            payload={
                'event': 'state_transition',
                'game_id': game_id,
                'transition': f"{old_state}->{new_state}"
            }
        )

        await analytics_queue.enqueue(analytics_event)

    await broadcast_state_change("game-1", new_state="turn", old_state="preparation")

    assert await event_queue.process_events() == 1
    assert [(event.game_id, event.data["new_state"]) for event in heard] == [("game-1", "turn")]
    message = await analytics_queue.dequeue()
    assert message is not None
    assert message.payload["transition"] == "preparation->turn"
