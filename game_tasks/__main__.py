"""``python -m game_tasks play``: one full game, shown; ``simulate``: a thousand rooms and an account of every event."""

from __future__ import annotations

import argparse
import logging
import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 when everything that was published was handled exactly once."""
    parser = argparse.ArgumentParser(prog="python -m game_tasks", description="The board game Liap Tui on Celery.")
    commands = parser.add_subparsers(dest="command", required=True)
    play = commands.add_parser("play", help="play one full game with four bots, without any server")
    play.add_argument("--seed", type=int, default=7, help="which pieces are dealt; the same seed is the same game")
    play.add_argument("--concurrency", type=_positive, default=4, help="threads that run tasks (default 4)")
    play.add_argument(
        "--pace", type=_seconds, default=0.001, help="seconds the table pauses after each event (default 0.001)"
    )
    many = commands.add_parser("simulate", help="play many rooms of four bots, and account for every event")
    many.add_argument("--rooms", type=_positive, default=1000, help="rooms to play to the end (default 1000)")
    many.add_argument("--seed", type=int, default=1, help="of the first room; the next have the next numbers")
    many.add_argument("--bots", type=int, choices=[4], default=4, help="players of a room, all bots (the game has 4)")
    many.add_argument("--window", type=_positive, default=16, help="rooms open at once (default 16)")
    many.add_argument(
        "--concurrency", type=_positive, default=1, help="threads that run tasks (default 1: the worker's own)"
    )
    chosen = parser.parse_args(arguments)

    # The settings are read when the app's modules are used, so this must come first.
    # A game that plays by itself needs no other process: its broker is in this one unless the environment says else.
    if "MESSAGE_QUEUE_TYPE" not in os.environ:
        os.environ.setdefault("MESSAGE_QUEUE_URL", "liap-priority://")
    os.environ["DLQ_STORE_URL"] = "none"  # dead letters stay in their queue, where they are counted and shown
    # What goes wrong on purpose is shown in a table at the end.
    logging.basicConfig(level=logging.CRITICAL)

    from rich.console import Console

    # Reading the names of all emoji takes 5 ms, in which no event moves on.
    console = Console(width=None if sys.stdout.isatty() else 140, emoji=False)
    if chosen.command == "simulate":
        from game_tasks.simulation import simulate

        options = {name: getattr(chosen, name) for name in ("seed", "bots", "concurrency", "window")}
        return 0 if simulate(chosen.rooms, console, **options) else 1

    from game_tasks.demo import play as play_demo  # with subscribers that fail on purpose

    return 0 if play_demo(chosen.seed, console, concurrency=chosen.concurrency, pace=chosen.pace) else 1


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 60:
        raise argparse.ArgumentTypeError(f"must be from 0 to 60, not {number:g}")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
