"""Install the missing servers with apt where that is allowed, or say in one line how to get them.

Allowed means: a Debian family system, and root or passwordless sudo. Packages come without their recommendations, and
no system service is started: the tests bring up their own processes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.programs import is_ci, missing_programs

__all__ = ["install_missing"]

# Maintainer scripts ask this program whether they may start a service (Debian policy 9.3.3); 101 means no.
SERVICE_POLICY = Path("/usr/sbin/policy-rc.d")


def install_missing() -> int:
    """Install what is missing and return an exit status: non-zero only when something stays missing in CI."""
    missing = missing_programs()
    if not missing:
        return 0
    packages = [program.package for program in missing]
    print(f"installing test servers: {', '.join(packages)}", file=sys.stderr, flush=True)
    problem = _apt_install(packages)
    missing = missing_programs()
    if not missing:
        return 0
    ways = "; ".join(program.how_to_get for program in missing)
    print(
        f"tests that need these servers will {'fail' if is_ci() else 'be skipped'} ({problem}): {ways}", file=sys.stderr
    )
    return 1 if is_ci() else 0


def _apt_install(packages: list[str]) -> str:
    """Install Debian packages; return what stood in the way ("" when nothing did)."""
    if not shutil.which("apt-get"):
        return "this system has no apt"
    as_root = _prefix_for_root()
    if as_root is None:
        return "neither root nor passwordless sudo"
    apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    # A failed update is no end: lists that are there already may do.
    _run([*apt, "update"])
    with _no_services(as_root):
        done = _run([*apt, "install", "--yes", "--no-install-recommends", *packages])
    if done.returncode == 0:
        return ""
    lines = done.stdout.strip().splitlines()
    return f"apt-get failed: {lines[-1] if lines else f'exit status {done.returncode}'}"


def _prefix_for_root() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and _run(["sudo", "-n", "true"]).returncode == 0:
        return ["sudo", "-n"]
    return None


@contextmanager
def _no_services(as_root: list[str]) -> Iterator[None]:
    """Keep packages from starting their service while they are installed."""
    if SERVICE_POLICY.exists():  # the administrator's word stands
        yield
        return
    path = shlex.quote(str(SERVICE_POLICY))
    _run([*as_root, "sh", "-c", f"printf '#!/bin/sh\\nexit 101\\n' > {path} && chmod 755 {path}"])
    try:
        yield
    finally:
        _run([*as_root, "rm", "-f", str(SERVICE_POLICY)])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
