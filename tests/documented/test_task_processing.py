"""Game Integration, Task Processing."""

from __future__ import annotations

import asyncio
from typing import Any

from game_tasks.messaging import GameTaskProcessor, MessagePriority


async def test_a_submitted_task_is_done_in_the_background() -> None:
    loop, moved = asyncio.get_running_loop(), asyncio.Queue[Any]()

    # Create task processor
    processor = GameTaskProcessor(max_workers=5)

    # Register task handlers
    async def calculate_bot_move(data):
        game_id = data['game_id']
        player_id = data['player_id']
        # Calculate and return bot move
        loop.call_soon_threadsafe(moved.put_nowait, (game_id, player_id))

    processor.register_task_handler('bot_move', calculate_bot_move)

    # Start processing
    await processor.start()

    # Submit tasks
    await processor.submit_task(
        'bot_move',
        {'game_id': 'game_123', 'player_id': 'bot_1'},
        priority=MessagePriority.HIGH
    )

    assert await moved.get() == ("game_123", "bot_1")

    # Shutdown when done
    await processor.stop()
