"""Core Components, 1. Message Structure."""

from __future__ import annotations

from game_tasks.messaging import Message, MessagePriority


def test_a_message_is_made_and_described() -> None:
    # Create a message
    message = Message(
        payload={"event": "game_started", "room_id": "123"},
        priority=MessagePriority.HIGH
    )

    # Add metadata
    message.metadata.source = "game_engine"
    message.metadata.correlation_id = "req_456"

    assert message.payload == {"event": "game_started", "room_id": "123"}
    assert message.priority is MessagePriority.HIGH
    assert (message.metadata.source, message.metadata.correlation_id) == ("game_engine", "req_456")
    assert message.metadata.message_id != Message().metadata.message_id
