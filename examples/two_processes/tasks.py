"""The tasks that both processes know."""

from __future__ import annotations

from liap_tasks import RetryPolicy, create_app

app = create_app(main="two_processes")


@app.task(name="two_processes.score", ignore_result=False, retry_policy=RetryPolicy(max_retries=2, initial_delay=0.1))
def score(pieces: list[int]) -> int:
    """Return the points of a hand."""
    return sum(pieces)
