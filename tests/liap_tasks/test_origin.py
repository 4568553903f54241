"""The queue that a message was taken from is found by what the message carries."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Exchange, Queue, binding

from liap_tasks import EmbeddedWorker, LiapApp, RetryPolicy, dead_letters
from liap_tasks.origin import queue_of_origin
from tests.liap_tasks.conftest import Outcomes

GAME = Exchange("game", type="topic")
QUEUES = {
    queue.name: queue
    for queue in (
        Queue("own", Exchange("own"), routing_key="own"),
        Queue("moves", GAME, routing_key="game.move.#"),
        Queue("scores", bindings=[binding(GAME, routing_key="game.score"), binding(Exchange("late"), routing_key="s")]),
        Queue("all", Exchange("everything", type="fanout")),
        Queue("twin", Exchange("twins"), routing_key="k"),
        Queue("other twin", Exchange("twins"), routing_key="k"),
    )
}


@pytest.mark.parametrize(
    ("exchange", "routing_key", "queue"),
    [
        ("own", "own", "own"),
        ("", "own", "own"),
        ("game", "game.move.bot", "moves"),
        ("game", "game.score", "scores"),
        ("late", "s", "scores"),
        ("everything", "whatever", "all"),
        ("twins", "k", "k"),
        ("game", "game.over", "game.over"),
        ("", "unknown", "unknown"),
        ("", "", ""),
    ],
)
def test_the_queue_is_found_or_the_routing_key_stands_for_it(exchange: str, routing_key: str, queue: str) -> None:
    assert queue_of_origin(QUEUES, exchange, routing_key) == queue


def test_a_dead_letter_names_the_queue_that_its_message_came_from(app: LiapApp, outcomes: Outcomes) -> None:
    queue = app.missing_queue("moves")
    queue.exchange, queue.routing_key = GAME, "game.move.#"
    app.conf.task_queues = [*app.conf.task_queues, queue]

    @app.task(shared=False, name="tests.move", retry_policy=RetryPolicy(max_retries=0))
    def move() -> Any:
        raise ValueError

    with EmbeddedWorker(app, pool="solo"):
        move.apply_async(exchange=GAME, routing_key="game.move.bot", declare=[queue])
        outcomes.states(1)
    (letter,) = dead_letters.peek(app)
    assert (letter.queue, letter.exchange, letter.routing_key) == ("moves", "game", "game.move.bot")
