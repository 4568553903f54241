"""A private PostgreSQL server: a fresh cluster that trusts every loopback connection and never syncs to disk.

PostgreSQL refuses to run as root, so root runs it as the user ``postgres`` that its package makes (or ``nobody``).
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from tests.servers.process import ServerFailed, free_ports, private_folder, started

__all__ = ["empty_schema", "postgres"]

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "50",
}


@contextmanager
def postgres(program: Path) -> Iterator[str]:
    """Run a server inside the ``with`` block and yield its postgresql:// URL (user and database ``liap``)."""
    (port,) = free_ports(1)
    user = _unprivileged_user()
    folder = private_folder("postgres", owner=user)
    data = folder / "data"
    _run_tool(
        [program.with_name("initdb"), "-D", data, "-U", "liap", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        folder,
        user,
    )
    settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    is_ready = [program.with_name("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    with started(
        [program, "-D", data, "-p", str(port), *settings],
        folder=folder,
        ready=lambda: subprocess.run(is_ready, check=False).returncode == 0,
        user=user,
        stop_signal="SIGQUIT",  # at once, but its shared memory is given back
    ):
        _run_tool(
            [program.with_name("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "liap", "liap"], folder, user
        )
        yield f"postgresql://liap@127.0.0.1:{port}/liap"


@contextmanager
def empty_schema(url: str) -> Iterator[str]:
    """Yield the URL, for SQLAlchemy, of an empty schema in the database at ``url``, which ends with the block."""
    server = url.replace("postgresql://", "postgresql+psycopg://")
    schema = f"tests_{uuid4().hex}"
    engine = sa.create_engine(server, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    try:
        yield f"{server}?options=-csearch_path%3D{schema}"
    finally:
        with engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(schema, cascade=True))


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _run_tool(command: list[str | Path], folder: Path, user: str | None) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        user=user,
        group=user and pwd.getpwnam(user).pw_gid,
        extra_groups=[] if user else None,
    )
    if done.returncode:
        raise ServerFailed(f"{command[0]} failed:\n{done.stdout[-2000:]}")
