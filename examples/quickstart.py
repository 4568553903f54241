"""A task with a policy, a worker in this process, and what becomes of a call that fails for good."""

from liap_tasks import DeliveryOptions, EmbeddedWorker, MessagePriority, RetryPolicy, create_app, dead_letters

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
        for letter in dead_letters.peek(app):
            print("dead:", letter.task, letter.args, letter.reason.value, [one.error for one in letter.attempts])
