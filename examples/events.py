"""One event, one task for each subscriber whose pattern matches; a failing one disturbs nobody."""

import queue

from game_tasks import GameEvent, GameEventType, app, publish, subscribe
from liap_tasks import EmbeddedWorker, LiapTask, RetryPolicy

heard: queue.Queue[str] = queue.Queue()


@subscribe("game.*", name="examples.announcer")
def announcer(event: GameEvent) -> None:
    heard.put(f"announcer: {event.event_type.value} in {event.room_id}")


@subscribe("#", name="examples.stumbler", retry_policy=RetryPolicy(max_retries=1, initial_delay=0.05), bind=True)
def stumbler(self: LiapTask, event: GameEvent) -> None:
    if self.attempt == 1:
        raise ConnectionError("not yet")
    heard.put(f"stumbler: {event.event_type.value} on attempt {self.attempt}")


if __name__ == "__main__":
    with EmbeddedWorker(app, queues=["examples.announcer", "examples.stumbler"]):
        publish(GameEvent(event_type=GameEventType.GAME_STARTED, room_id="room-1", sequence=1))
        print(*sorted(heard.get(timeout=10) for _ in range(2)), sep="\n")
