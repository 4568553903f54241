"""Which server programs the tests can use, where they are found, and what to tell who has none.

Nothing here starts anything or imports more than the standard library: ``make test`` asks on every run.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["POSTGRES", "PROGRAMS", "RABBITMQ", "REDIS", "Program", "find_program", "is_ci", "missing_programs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A server: how it is called, packaged (Debian's names), and replaced by one that runs already."""

    name: str
    executable: str
    package: str
    url_variable: str
    # Folders looked in before PATH, as glob patterns; the last match in name order wins (the newest version).
    folders: tuple[str, ...] = ()

    @property
    def how_to_get(self) -> str:
        return (
            f"no {self.executable}: apt-get install {self.package}, or set {self.url_variable} to a running {self.name}"
        )


RABBITMQ = Program(
    name="RabbitMQ",
    executable="rabbitmq-server",
    package="rabbitmq-server",
    url_variable="LIAP_TEST_RABBITMQ_URL",
    # Debian's program in PATH insists on the system's own user and folders; this one takes ours.
    folders=("/usr/lib/rabbitmq/bin",),
)
REDIS = Program(name="Redis", executable="redis-server", package="redis-server", url_variable="LIAP_TEST_REDIS_URL")
POSTGRES = Program(
    name="PostgreSQL",
    executable="postgres",
    package="postgresql",
    url_variable="LIAP_TEST_POSTGRES_URL",
    # Debian keeps one folder a version, none of them in PATH.
    folders=("/usr/lib/postgresql/*/bin",),
)
PROGRAMS = (RABBITMQ, REDIS, POSTGRES)


def find_program(program: Program) -> Path | None:
    """Return the path of a server program, None when it is not installed."""
    for pattern in program.folders:
        for found in sorted(Path("/").glob(f"{pattern.lstrip('/')}/{program.executable}"), reverse=True):
            if os.access(found, os.X_OK):
                return found
    on_path = shutil.which(program.executable, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    return Path(on_path) if on_path else None


def missing_programs() -> list[Program]:
    """Return the servers that are neither installed nor replaced by a URL in the environment."""
    return [p for p in PROGRAMS if not os.environ.get(p.url_variable) and find_program(p) is None]


def is_ci() -> bool:
    """Tell whether a missing server is a failure (continuous integration) or a reason to skip."""
    return os.environ.get("CI", "").lower() in ("true", "1", "yes")
