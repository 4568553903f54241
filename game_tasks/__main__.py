"""``python -m game_tasks play [--seed N]``: play one full game and show it."""

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
    play.add_argument("--concurrency", type=int, default=4, help="threads that run tasks (default 4)")
    chosen = parser.parse_args(arguments)

    # The settings are read when the app's modules are used, so this must come first.
    os.environ.setdefault("MESSAGE_QUEUE_TYPE", "priority")
    # What goes wrong on purpose is shown in a table at the end.
    logging.basicConfig(level=logging.CRITICAL)

    from rich.console import Console

    from game_tasks.demo import play as play_demo

    console = Console(width=None if sys.stdout.isatty() else 140)
    return 0 if play_demo(chosen.seed, console, concurrency=chosen.concurrency) else 1


if __name__ == "__main__":
    sys.exit(main())
