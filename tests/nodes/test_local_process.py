"""A local process in the place of a container: its log, its signals, its end, and who ends it when nobody else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pytest_celery import CeleryTestContainer
from pytest_docker_tools.exceptions import ContainerFailed

from liap_tasks.testing.nodes.errors import DockerOnlyError, NodeFailed, NodeNotRunning
from liap_tasks.testing.nodes.machine import LocalMachine
from liap_tasks.testing.nodes.process import LocalProcess
from tests.nodes.ended import gone

ROOT = Path(__file__).parents[2]
DEADLINE = 60


class Shell(CeleryTestContainer):
    ready_prompt = "ready"


def start(machine: LocalMachine, script: str, **options: object) -> tuple[Shell, LocalProcess]:
    container = machine.start(Shell, ["sh", "-c", script], label="shell", **options)  # type: ignore[arg-type]
    return container, container._container


def test_a_restart_keeps_the_log_and_waits_for_the_new_start(local_machine: LocalMachine) -> None:
    container, process = start(local_machine, "echo ready as $$; exec sleep 600")
    first = process.pid
    container.restart()

    assert process.pid != first
    assert container.logs() == f"ready as {first}\nready as {process.pid}\n"
    assert container.ready()
    assert gone(first)


def test_its_children_end_with_it(local_machine: LocalMachine) -> None:
    container, process = start(local_machine, "sleep 600 & echo child $!; echo ready; wait")
    child = int(container.logs().split()[1])

    container.kill("TERM")  # the shell ends, its child is not told

    assert process.wait(lambda: container.status == "exited", DEADLINE)
    assert process.exit_code == -signal.SIGTERM
    assert gone(child)


def test_who_ignores_a_polite_signal_is_killed(local_machine: LocalMachine) -> None:
    container, process = start(local_machine, "trap '' TERM; echo ready; while :; do sleep 600; done")

    process.stop(timeout=0.1)

    assert (container.status, process.exit_code) == ("exited", -signal.SIGKILL)
    with pytest.raises(NodeNotRunning, match="has ended and takes no signals"):
        container.kill()
    with pytest.raises(ContainerFailed):
        container.ready()


def test_a_process_that_does_not_get_ready_is_an_error_with_its_log(local_machine: LocalMachine) -> None:
    with pytest.raises(NodeFailed, match=r"(?s)ended with status 3; .*no such luck") as failed:
        start(local_machine, "echo no such luck; exit 3")
    assert failed.value.log == "no such luck\n"

    _, process = start(local_machine, "echo still busy; exec sleep 600", wait=False)
    assert process.wait_for_log("still busy", DEADLINE)
    with pytest.raises(NodeFailed, match=r"(?s)was not ready in 0 s; .*still busy"):
        process.wait_until_ready(timeout=0)


def test_files_variables_and_commands_are_those_of_the_node(
    local_machine: LocalMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "from pytest")
    container, process = start(
        local_machine,
        "cat folder/file; echo $OWN, $INHERITED; echo ready; exec sleep 600",
        content={"folder/file": b"text\n", "empty": None},
        environment={"OWN": "its own"},
    )

    assert container.logs() == "text\nits own, from pytest\nready\n"
    assert container.get_text("/app/folder") == {"folder": None, "folder/file": "text\n"}
    assert container.env["OWN"] == "its own"
    assert container.exec_run("ls") == (0, b"empty\nfolder\n")
    assert container.exec_run(["sh", "-c", "echo $OWN; exit 4"]) == (4, b"its own\n")
    code, path = container.exec_run("python -c 'import sys; print(sys.path[1])'")
    assert (code, Path(path.decode().strip())) == (0, process.working_folder)
    assert container.ips.primary == "127.0.0.1"
    for missing in ("image", "labels", "put_archive"):
        with pytest.raises(DockerOnlyError, match=f"is a local process: it has no '{missing}'"):
            getattr(process, missing)
    with pytest.raises(DockerOnlyError, match=r"no 'exec_run\(user\)'"):
        container.exec_run("ls", user="root")


PYTEST = """
    import os, signal
    from pytest_celery import CeleryTestContainer

    class Shell(CeleryTestContainer):
        ready_prompt = "ready"

    def test_one(local_machine):
        shell = local_machine.start(Shell, ["sh", "-c", "sleep 600 & echo $! is ready; wait"], label="shell")
        print(shell.attrs["State"]["Pid"], shell.logs().split()[0], file=open("pids", "w"))
        {ending}
"""


@pytest.mark.parametrize(
    "ending",
    [
        "raise RuntimeError('the test broke')",
        # A shell lets what it starts in the background ignore Ctrl-C; then so would this one.
        "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)",
        "os._exit(1)",
        "os.kill(os.getpid(), signal.SIGKILL)",
    ],
    ids=["failure", "ctrl-c", "exit", "killed"],
)
def test_nodes_end_with_the_tests_that_started_them(tmp_path: Path, ending: str) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["liap_tasks.testing.local_nodes"]')
    (tmp_path / "test_one.py").write_text(textwrap.dedent(PYTEST).format(ending=ending))

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "test_one.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode != 0
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(set(pids)) == 2
    assert all(map(gone, pids))
    if "raise" in ending:  # the log is shown, once
        assert done.stdout.count(f"{pids[1]} is ready") == 1
        assert "node shell-" in done.stdout
