"""A private RabbitMQ node: its own name, cookie, port mapper and data, all on the loopback interface, no plugins.

Erlang finds nodes through a port mapper (epmd) that a node starts in the background and leaves behind; here it is a
process of its own with a port of its own, so that nothing is left and no other node of the machine is met.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.servers.process import ServerFailed, answers, free_ports, private_folder, started

__all__ = ["RabbitMQNode", "rabbitmq"]

CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
num_acceptors.tcp = 2
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 10MB
log.file = false
log.console = true
log.console.level = warning
"""


ADD_VIRTUAL_HOST = """\
rabbit_vhost:add(<<"{name}">>, <<"tests">>),
rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>).
"""
CLOSE_CONNECTIONS = 'rabbit_networking:close_all_connections(<<"closed by a test">>).\n'
DELETE_VIRTUAL_HOST = 'rabbit_vhost:delete(<<"{name}">>, <<"tests">>).\n'


@dataclass(frozen=True, kw_only=True, slots=True)
class RabbitMQNode:
    """A node that runs: its amqp:// URL (user guest, virtual host ``/``) and how to speak to its Erlang side."""

    url: str
    name: str
    folder: Path
    mapper_port: int

    @contextmanager
    def virtual_host(self) -> Iterator[str]:
        """Make a virtual host, and yield its URL; it goes with all that is in it.

        Why Erlang's ``erl_call``: it takes some milliseconds, ``rabbitmqctl`` takes seconds; the management plugin
        would make every start slower.
        """
        name = f"tests-{uuid4().hex[:12]}"
        self._evaluate(ADD_VIRTUAL_HOST.format(name=name))
        try:
            yield f"{self.url.removesuffix('//')}/{name}"
        finally:
            self._evaluate(DELETE_VIRTUAL_HOST.format(name=name))

    def close_connections(self) -> None:
        """Close every client's connection, as a broker does that has to."""
        self._evaluate(CLOSE_CONNECTIONS)

    def _evaluate(self, erlang: str) -> None:
        cookie = (self.folder / ".erlang.cookie").read_text()
        done = subprocess.run(
            ["erl_call", "-c", cookie, "-sname", self.name, "-e"],
            check=False,
            input=erlang,
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(self.folder), "ERL_EPMD_PORT": str(self.mapper_port)},
        )
        if done.returncode or not done.stdout.startswith("{ok"):
            raise ServerFailed(f"RabbitMQ did not evaluate {erlang}: {done.stdout}{done.stderr}")


@contextmanager
def rabbitmq(program: Path) -> Iterator[RabbitMQNode]:
    """Run a node inside the ``with`` block."""
    port, distribution_port, mapper_port = free_ports(3)
    mapper = shutil.which("epmd")
    if mapper is None:
        raise ServerFailed("RabbitMQ is installed but Erlang's epmd is not in PATH")
    folder = private_folder("rabbitmq")
    name = f"liap-{os.getpid()}-{port}@localhost"
    (folder / "rabbitmq.conf").write_text(CONFIGURATION.format(port=port))
    (folder / "enabled_plugins").write_text("[].\n")
    environment = {
        "HOME": str(folder),  # the cookie lives there
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_CONF_ENV_FILE": str(folder / "no-such-file"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_DIST_PORT": str(distribution_port),
        # The node takes the place of its start script: one process to guard, none between.
        "RABBITMQ_ALLOW_INPUT": "1",
        # Listen for other nodes on the loopback interface only; few schedulers that do not spin; no crash dumps.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-noinput -kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
        ),
        "ERL_CRASH_DUMP_SECONDS": "0",
    }
    with started(
        [mapper, "-port", str(mapper_port), "-address", "127.0.0.1"],
        folder=private_folder("epmd"),
        ready=lambda: answers(mapper_port, b"\x00\x01n", mapper_port.to_bytes(4, "big")),
    ):
        with started(
            [program],
            folder=folder,
            environment=environment,
            # A bad protocol header is answered with the one that is spoken (AMQP 0-9-1, 4.2.2).
            ready=lambda: answers(port, b"AMQP\x00\x00\x00\x00", b"AMQP\x00\x00\x09\x01"),
            stop_signal="SIGKILL",  # nothing of it is kept, so it need not say goodbye
        ):
            url = f"amqp://guest:guest@127.0.0.1:{port}//"
            yield RabbitMQNode(url=url, name=name, folder=folder, mapper_port=mapper_port)
