"""What keeping dead letters costs: from the queue into SQLite by the recorder, and pages and statistics of many.

The pages are those that people ask for: each alone is read, fifty letters whole, the oldest or the newest first; the
slowest counts. The letters of the store are of twelve reasons, forty tasks and ten queues, most of them replayed.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import sqlalchemy as sa
from kombu import pools

from benchmarks.measure import Figure, interleaved, per_second
from liap_tasks import DeadLetterReason, create_app, load_settings
from liap_tasks.configuration import DEAD_LETTER_EXCHANGE, dead_letter_queue
from liap_tasks.dead_letter_store import DeadLetterStore, Letter, LetterFilter
from liap_tasks.dead_letter_store.recorder import Recorder
from liap_tasks.dead_letters import HEADER

__all__ = ["rows"]

TRACEBACK = 'Traceback (most recent call last):\n  File "game.py", line 1, in settle\n' * 15
REASONS = [reason.value for reason in DeadLetterReason][:12]
STATES = ("dead", "scheduled", *("replayed",) * 6, "purged", "dead")
SEED = 1000  # letters that are made one by one; the rest are copies of them, each with its own id and time
DAY = 86_400.0


def record_rate(number: int, folder: Path) -> float:
    """Return letters per second from the first one taken from the queue to the last one stored and acknowledged."""
    app = create_app(
        load_settings(
            message_queue_url=f"liap-memory:///{uuid4().hex}", dlq_store_url=f"sqlite:///{folder}/{uuid4().hex}.sqlite3"
        ),
        set_as_current=False,
    )
    queue = dead_letter_queue()
    try:
        with app.connection_for_write() as connection, connection.channel() as channel:
            producer = connection.Producer(channel)
            queue.bind(channel).declare()
            for index in range(number):
                message = app.amqp.create_task_message(str(uuid4()), "game.settle", (index,), {"player": "p1"})
                story = {
                    "letter_id": str(uuid4()),
                    "reason": "retries_exhausted",
                    "detail": "failed on attempt 3 of 3",
                    "queue": "games",
                    "exception": "ValueError",
                    "message": "no such stake",
                    "traceback": TRACEBACK,
                    "attempts": [{"number": n, "at": 1e9, "error": "ValueError", "message": "no"} for n in (1, 2, 3)],
                    "at": time.time(),
                }
                producer.publish(
                    message.body,
                    exchange=DEAD_LETTER_EXCHANGE,
                    routing_key="games",
                    serializer="json",
                    headers={**message.headers, HEADER: story},
                    **message.properties,
                )
            store = app.dead_letter_store
            store.count()  # makes the tables
            recorder = Recorder(app, store)

            def record() -> None:
                recorder.start()
                while queue.bind(channel).queue_declare(passive=True).message_count or store.count() < number:
                    time.sleep(0.005)

            rate = per_second(number, record)
            recorder.stop(10)
            return rate
    finally:
        app.close()
        pools.reset()


def many_letters(number: int, folder: Path) -> DeadLetterStore:
    """Return a store with ``number`` letters of the last days."""
    store = DeadLetterStore(f"sqlite:///{folder}/many.sqlite3")
    seed = min(SEED, number)
    first = Letter(
        id="", reason="expired", died_at=0.0, traceback=TRACEBACK[:140], body=b"[[1], {}, {}]", exception="ValueError"
    )
    store.record(
        replace(
            first,
            id=f"{index}",
            state=STATES[index % len(STATES)],
            reason=REASONS[index % 12],
            task=f"game.task_{index * 7 % 40}",
            queue=f"queue-{index * 13 % 10}",
            died_at=time.time() - DAY * ((index * 7919) % seed) / seed,
        )
        for index in range(seed)
    )
    table = store.url.database
    engine = sa.create_engine(f"sqlite:///{table}")
    names = [name for name in Letter.__dataclass_fields__ if name not in ("id", "died_at")]
    columns = ", ".join(names)
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA cache_size = -400000")  # KiB
        copies = number // seed - 1
        connection.execute(
            sa.text(
                f"WITH RECURSIVE copy(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copy WHERE n < {copies}) "
                f"INSERT INTO dead_letters (id, died_at, {columns}) "
                f"SELECT id || '-' || n, died_at - n * 3.7, {columns} FROM copy, dead_letters WHERE {copies} > 0"
            )
        )
    engine.dispose()
    return store


def page_seconds(store: DeadLetterStore) -> tuple[str, float]:
    """Return the slowest of the usual pages and its time; each is the median of three."""
    now = time.time()
    dead = ("dead",)
    middle = store.list(LetterFilter(states=dead), limit=1, newest_first=True)[0].id
    filters = {
        "all": LetterFilter(),
        "state": LetterFilter(states=dead),
        "reason": LetterFilter(reasons=("timed_out",)),
        "two reasons": LetterFilter(reasons=("timed_out", "expired"), states=dead),
        "task": LetterFilter(tasks=("game.task_7",)),
        "queue": LetterFilter(queues=("queue-3",), states=dead),
        "task and reason": LetterFilter(tasks=("game.task_7",), reasons=("expired",)),
        "queue and reason": LetterFilter(queues=("queue-3",), reasons=("expired",), states=dead),
        "a task that is not there": LetterFilter(tasks=("nobody",)),
        "older than an hour": LetterFilter(died_before=now - 3600, states=dead),
        "of the last hour": LetterFilter(died_after=now - 3600),
    }
    taken: dict[str, float] = {}
    for name, where in filters.items():
        for newest_first in (False, True):
            for after in (None, middle):
                seconds = []
                for _ in range(3):
                    began = time.perf_counter()
                    store.list(where, limit=50, after=after, newest_first=newest_first)
                    seconds.append(time.perf_counter() - began)
                taken[name] = max(taken.get(name, 0.0), statistics.median(seconds))
    slowest = max(taken, key=lambda name: taken[name])
    return slowest, taken[slowest]


def rows(scale: float, repeat: int) -> list[Figure]:
    """Measure recording, pages and statistics."""
    letters, many = int(10_000 * scale), int(1_000_000 * scale)
    with TemporaryDirectory() as name:
        folder = Path(name)
        rate = interleaved(repeat, {"record": lambda: record_rate(letters, folder)})["record"]
        store = many_letters(many, folder)
        slowest, page = page_seconds(store)
        counting = []
        for _ in range(3):
            began = time.perf_counter()
            store.stats()
            counting.append(time.perf_counter() - began)
        store.close()
    return [
        Figure(f"{letters:,} letters from the queue into SQLite", f"{rate:,.0f}/s", "3,000/s", rate >= 3000),
        Figure(
            f"slowest page of 50 among {many:,} letters ({slowest})", f"{page * 1000:.1f} ms", "200 ms", page <= 0.2
        ),
        Figure(f"statistics of {many:,} letters", f"{statistics.median(counting) * 1000:.0f} ms"),
    ]
