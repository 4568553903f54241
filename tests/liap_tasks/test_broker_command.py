"""``celery broker``: it serves where the clients of the app look for it, and nowhere else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.transports.served.processes import BrokerProcess
from tests.transports.served.raw import DEADLINE, RawClient, eventually
from transports.wire.address import TcpAddress

TOKEN = "a token nobody can guess"


def test_a_tcp_url_is_served_beside_the_user_s_own_broker(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = TcpAddress("127.0.0.1", free.getsockname()[1])
    environment = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_STATE_HOME": str(tmp_path),
        "MESSAGE_QUEUE_URL": f"liap-broker://:{TOKEN.replace(' ', '%20')}@{address}",
        "DLQ_STORE_URL": "none",
    }
    with BrokerProcess(str(runtime / "liap-tasks" / "broker.sock"), environment=environment):
        command = [sys.executable, "-m", "celery", "-A", "liap_tasks", "broker"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            eventually(lambda: process.poll() is not None or answers(address))
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, log
    assert f"serving {address}, journal none" in log


def answers(address: TcpAddress) -> bool:
    try:
        RawClient(address, token=TOKEN).socket.close()
    except OSError:
        return False
    return True
