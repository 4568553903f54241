"""A FastAPI backend that calls tasks without ever blocking its event loop.

    pip install fastapi uvicorn
    uvicorn examples.fastapi_backend:backend

Here the worker runs inside the backend, so that there is no server to install. With MESSAGE_QUEUE_URL=amqp://... it may
be a process of its own instead: celery -A examples.fastapi_backend worker
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from liap_tasks import (
    BrokerUnavailableError,
    EmbeddedWorker,
    QueueFullError,
    RetryPolicy,
    create_app,
)

app = create_app(main="backend")


class Hand(BaseModel):
    pieces: list[int]


def cautious(hand: Hand) -> dict[str, int]:
    """Answer at once when the clever answer would come too late."""
    return {"piles": 1}


@app.task(name="backend.declare", fallback=cautious, retry_policy=RetryPolicy(max_retries=1, initial_delay=0.05))
def declare(hand: Hand) -> dict[str, int]:
    return {"piles": sum(points > 10 for points in hand.pieces)}


@app.task(name="backend.settle")
def settle(game_id: str) -> None:
    print(f"settled {game_id}")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    with EmbeddedWorker(app):
        yield


backend = FastAPI(lifespan=lifespan)


@backend.post("/declaration")
async def declaration(hand: Hand) -> dict[str, int]:
    """Wait for the answer: two seconds, then the fallback answers."""
    answer: dict[str, int] = await declare.call(hand, timeout=2)
    return answer


@backend.post("/games/{game_id}/end", status_code=202)
async def end(game_id: str) -> dict[str, str]:
    """Hand the work over and return at once."""
    try:
        result = await settle.aapply_async((game_id,), timeout=2)
    except QueueFullError as full:
        raise HTTPException(503, str(full), {"Retry-After": f"{full.retry_after:.0f}"}) from full
    except BrokerUnavailableError as away:
        raise HTTPException(503, str(away)) from away
    return {"task": result.id}
