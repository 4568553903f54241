"""A task with a policy, a worker in this process, and what becomes of a call that fails for good."""

from liap_tasks import DeliveryOptions, EmbeddedWorker, MessagePriority, RetryPolicy, create_app

app = create_app()


@app.task(retry_policy=RetryPolicy(max_retries=2, initial_delay=0.1), timeout=5, ignore_result=False)
def settle(game_id: str, stake: int) -> int:
    if stake < 0:
        raise ValueError("no such stake")
    return stake * 2


if __name__ == "__main__":
    with EmbeddedWorker(app):
        urgent = DeliveryOptions(priority=MessagePriority.HIGH, correlation_id="req-456")
        print("settled:", settle.apply_async(("game-1", 21), delivery=urgent).get(timeout=5))
        settle.delay("game-2", -1).get(timeout=10, propagate=False)
    # The worker has put it into the store (DLQ_STORE_URL, by default a SQLite file in this folder).
    for letter in app.dead_letter_store.list(newest_first=True, limit=1):
        print("dead:", letter.task, letter.task_id, letter.reason, [attempt["error"] for attempt in letter.attempts])
