"""The private servers themselves: they answer, keep to the loopback interface, and end with whoever started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.servers import install
from tests.servers.process import ServerFailed, free_ports, private_folder, started
from tests.servers.programs import POSTGRES, PROGRAMS, RABBITMQ, REDIS, Program, find_program, missing_programs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="servers are started on POSIX systems only")


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("fixture", "program"), [("rabbitmq_url", RABBITMQ), ("redis_url", REDIS), ("postgres_url", POSTGRES)]
)
def test_a_private_server_listens_on_the_loopback_interface_only(
    request: pytest.FixtureRequest, fixture: str, program: Program
) -> None:
    url = urlsplit(request.getfixturevalue(fixture))
    if os.environ.get(program.url_variable):
        assert request.getfixturevalue(fixture) == os.environ[program.url_variable]
        return
    assert url.hostname == "127.0.0.1"
    assert url.port is not None
    assert can_connect(url.port)
    with socket.socket() as elsewhere:  # the port is free on every other address of the machine
        elsewhere.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elsewhere.bind(("127.0.0.2", url.port))


SERVER_THAT_TELLS_ITS_PORT = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    from tests.servers.programs import REDIS, find_program
    from tests.servers.redis import redis
    with redis(find_program(REDIS)) as url:
        print(url.split(":")[2].split("/")[0], flush=True)
        {ending}
"""


@pytest.mark.parametrize(
    ("ending", "signum"),
    [
        ("raise RuntimeError('the tests broke')", None),
        ("signal.pause()", signal.SIGINT),
        ("signal.pause()", signal.SIGTERM),
        ("signal.pause()", signal.SIGKILL),
    ],
    ids=["exception", "ctrl-c", "terminated", "killed"],
)
@pytest.mark.redis
def test_a_server_ends_with_the_process_that_started_it(ending: str, signum: int | None, redis_url: str) -> None:
    if find_program(REDIS) is None:
        pytest.skip(REDIS.how_to_get)  # redis_url came from the environment
    script = textwrap.dedent(SERVER_THAT_TELLS_ITS_PORT).format(ending=ending)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        if signum is not None:
            assert can_connect(port)
            os.killpg(process.pid, signum)
        process.wait(10)

    assert eventually(lambda: not can_connect(port))


def test_the_folder_of_a_server_goes_with_it() -> None:
    folder = private_folder("folder-test")
    with started(["sleep", "60"], folder=folder, ready=lambda: (folder / "output.log").exists()):
        assert folder.is_dir()

    assert not folder.exists()


def test_a_server_that_does_not_get_ready_is_an_error_with_its_log() -> None:
    with pytest.raises(ServerFailed, match="no such luck"):
        with started(["sh", "-c", "echo no such luck; exit 3"], folder=private_folder("fails"), ready=lambda: False):
            pytest.fail("it never was ready")


def test_free_ports_are_distinct() -> None:
    assert len(set(free_ports(20))) == 20


def test_nothing_is_installed_or_printed_when_every_server_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for program in PROGRAMS:
        monkeypatch.setenv(program.url_variable, "somewhere://")
    monkeypatch.setattr(install, "_run", lambda command: pytest.fail(f"ran {command}"))

    assert install.install_missing() == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("ci", "status", "verb"), [("", 0, "be skipped"), ("true", 1, "fail")])
def test_a_server_that_cannot_be_installed_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ci: str, status: int, verb: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(install, "missing_programs", lambda: [REDIS])
    monkeypatch.setattr(install.shutil, "which", lambda name: None)

    assert install.install_missing() == status

    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2  # what is tried, and how it ended
    assert f"will {verb} (this system has no apt)" in told[1]
    assert REDIS.how_to_get in told[1]


def test_services_stay_stopped_while_packages_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(install, "SERVICE_POLICY", policy)

    with install._no_services([]):
        assert subprocess.run([str(policy), "redis-server", "start"], check=False).returncode == 101

    assert not policy.exists()


def test_a_program_in_the_environment_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.programs.find_program", lambda program: None)
    for program in PROGRAMS:
        monkeypatch.delenv(program.url_variable, raising=False)
    monkeypatch.setenv(REDIS.url_variable, "redis://127.0.0.1:1/0")

    assert missing_programs() == [RABBITMQ, POSTGRES]


MISSING_SERVER_TEST = """
    from tests.servers.fixtures import redis_url

    def test_needs_redis(redis_url):
        raise AssertionError("it has no server")
"""


@pytest.mark.parametrize(("ci", "outcome"), [("", "SKIPPED"), ("true", "ERROR")])
def test_a_missing_server_skips_its_tests_and_fails_them_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_one.py").write_text(textwrap.dedent(MISSING_SERVER_TEST))
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k != REDIS.url_variable}
    patch = "import tests.servers.fixtures as f; f.find_program = lambda program: None; "
    run = f"import sys, pytest; sys.path.insert(0, {str(root)!r}); {patch}sys.exit(pytest.main(sys.argv[1:]))"

    done = subprocess.run(
        [sys.executable, "-c", run, "-ra", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        env={**environment, "CI": ci},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert outcome in done.stdout
    assert REDIS.how_to_get in done.stdout


def test_the_install_command_is_silent_with_every_server_there() -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, **{program.url_variable: "somewhere://" for program in PROGRAMS}}

    done = subprocess.run(
        [sys.executable, "-m", "tests.servers", "install"], cwd=root, env=environment, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
