"""One full game through the real thing: broker, worker, tasks, events, and what happens when subscribers fail."""

from game_tasks.demo.run import play

__all__ = ["play"]
