"""Many rooms at once, played to the end through broker and worker, with an account of every event."""

from game_tasks.simulation.run import simulate

__all__ = ["simulate"]
