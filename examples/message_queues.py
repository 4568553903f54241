"""Queues as objects: a bounded queue, a handler with retries, and what becomes of a message that fails for good."""

import asyncio

from liap_tasks.messaging import (
    AsyncMessageHandler,
    BoundedInMemoryQueue,
    DeadLetterHandler,
    DeadLetterQueue,
    Message,
    QueueFullError,
    RetryingHandler,
    RetryPolicy,
)


async def settle(message: Message) -> None:
    if message.payload["stake"] < 0:
        raise ValueError("no such stake")
    print("settled:", message.payload["game"])


async def main() -> None:
    async with DeadLetterQueue("failed") as failed, BoundedInMemoryQueue("stakes", max_size=2) as stakes:
        await stakes.enqueue(Message({"game": "game-1", "stake": 21}))
        await stakes.enqueue(Message({"game": "game-2", "stake": -1}))
        try:
            await stakes.enqueue(Message({"game": "game-3", "stake": 1}))
        except QueueFullError as error:
            print("refused:", error)

        retrying = RetryingHandler(AsyncMessageHandler(settle), RetryPolicy(max_retries=2, initial_delay=0.01))
        handler = DeadLetterHandler(retrying, failed)
        while (message := await stakes.dequeue()) is not None:
            await handler.handle(message)
            await stakes.acknowledge(message.metadata.message_id)

        [letter] = await failed.inspect()
        attempts = [attempt.error for attempt in letter.message.metadata.attempts]
        print("kept:", letter.message.payload["game"], letter.reason, attempts)


asyncio.run(main())
