"""The FastAPI example, through its own routes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from celery.signals import task_success

from examples import fastapi_backend
from liap_tasks.testing import isolated


@pytest.fixture(autouse=True)
def _small_world() -> Iterator[None]:
    """A broker for each test alone, with little room."""
    with isolated(fastapi_backend.app, max_queue_size=50):
        yield


@asynccontextmanager
async def served(worker: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    application = fastapi_backend.backend
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://backend") as client:
        if worker:
            async with application.router.lifespan_context(application):
                yield client
        else:
            yield client


def test_the_backend_answers_with_what_its_task_says() -> None:
    async def talk() -> list[Any]:
        async with served() as client:
            hands = [[14, 11, 2], [1] * 8, [12, 11, 14, 13]] * 3
            answers = await asyncio.gather(*(client.post("/declaration", json={"pieces": hand}) for hand in hands))
            return [answer.json()["piles"] for answer in answers]

    assert asyncio.run(talk()) == [2, 0, 4] * 3


def test_the_fallback_answers_when_no_worker_does() -> None:
    async def talk() -> Any:
        async with served(worker=False) as client:
            return (await client.post("/declaration", json={"pieces": [14, 13]})).json()

    assert asyncio.run(talk()) == {"piles": 1}


def test_work_is_handed_over_and_done(capfd: pytest.CaptureFixture[str]) -> None:
    done = threading.Event()

    def note(sender: Any, **_: Any) -> None:
        if sender.name == "backend.settle":
            done.set()

    async def talk() -> httpx.Response:
        async with served() as client:
            answer = await client.post("/games/g7/end")
            assert await asyncio.to_thread(done.wait, 30)
            return answer

    task_success.connect(note)
    try:
        answer = asyncio.run(talk())
    finally:
        task_success.disconnect(note)
    assert "settled g7" in capfd.readouterr().out
    assert answer.status_code == 202
    assert answer.json()["task"]


def test_a_full_queue_is_a_503_with_the_time_to_wait() -> None:
    async def talk() -> httpx.Response:
        async with served(worker=False) as client:
            for _ in range(fastapi_backend.app.settings.max_queue_size):
                fastapi_backend.settle.delay("g0")
            return await client.post("/games/g1/end")

    answer = asyncio.run(talk())
    assert answer.status_code == 503
    assert "full" in answer.json()["detail"]
    assert "Retry-After" in answer.headers
