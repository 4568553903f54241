"""A private RabbitMQ node: its own name, cookie, port mapper and data, all on the loopback interface, no plugins.

Erlang finds nodes through a port mapper (epmd) that a node starts in the background and leaves behind; here it is a
process of its own with a port of its own, so that nothing is left and no other node of the machine is met.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import ServerFailed, answers, free_ports, private_folder, started

__all__ = ["rabbitmq"]

CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
num_acceptors.tcp = 2
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 10MB
log.file = false
log.console = true
log.console.level = warning
"""


@contextmanager
def rabbitmq(program: Path) -> Iterator[str]:
    """Run a node inside the ``with`` block and yield its amqp:// URL (user guest, virtual host ``/``)."""
    port, distribution_port, mapper_port = free_ports(3)
    mapper = shutil.which("epmd")
    if mapper is None:
        raise ServerFailed("RabbitMQ is installed but Erlang's epmd is not in PATH")
    folder = private_folder("rabbitmq")
    (folder / "rabbitmq.conf").write_text(CONFIGURATION.format(port=port))
    (folder / "enabled_plugins").write_text("[].\n")
    environment = {
        "HOME": str(folder),  # the cookie lives there
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"liap-{os.getpid()}-{port}@localhost",
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
            yield f"amqp://guest:guest@127.0.0.1:{port}//"
