"""kombu's own integration classes: they are in its source distribution only, so they are fetched from there.

``pip`` brings the source of the very version that is installed, from wherever pip is set up to look; the one file that
is wanted stays in ``.cache/`` of this repository. Nothing of kombu is copied into the repository itself.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import kombu

__all__ = ["SourceUnavailable", "integration_classes", "source_archive"]

ROOT = Path(__file__).parents[2]
MEMBER = "t/integration/common.py"
FETCH_SECONDS = 120


class SourceUnavailable(Exception):
    """The source distribution could not be fetched; the text says why, in one line."""


def integration_classes() -> ModuleType:
    """Return kombu's module of integration classes; raises SourceUnavailable when it is not to be had."""
    cached = ROOT / ".cache" / f"kombu-{kombu.__version__}" / MEMBER
    if not cached.exists():
        source = _fetch()
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(".partial")
        partial.write_bytes(source)
        partial.replace(cached)  # whole or not at all, also with two test runs at once
    spec = importlib.util.spec_from_file_location("kombu_integration_common", cached)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _fetch() -> bytes:
    with tempfile.TemporaryDirectory(prefix="liap-kombu-") as folder:
        path = source_archive("kombu", kombu.__version__, Path(folder))
        with tarfile.open(path) as archive:
            name = f"{path.name.removesuffix('.tar.gz')}/{MEMBER}"
            try:
                member = archive.extractfile(name)
            except KeyError:
                raise SourceUnavailable(f"{path.name} has no {MEMBER}") from None
            assert member is not None
            return member.read()


def source_archive(package: str, version: str, folder: Path) -> Path:
    """Have pip fetch the source distribution of a package into a folder; raises SourceUnavailable."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-binary", package, "--retries", "1", "--dest", str(folder)),
        f"{package}=={version}",
    ]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise SourceUnavailable(f"pip did not answer in {FETCH_SECONDS} s") from None
    archives = list(folder.glob(f"{package}-*.tar.gz"))
    if done.returncode or not archives:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise SourceUnavailable(lines[-1] if lines else f"pip ended with status {done.returncode}")
    return archives[0]
