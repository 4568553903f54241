"""How much memory the process has: now, and at most."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["peak_bytes", "resident_bytes"]

_STATM = Path("/proc/self/statm")


def peak_bytes() -> int:
    """Return the most memory that has been resident at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Return the memory that is resident now; the peak where the system does not tell."""
    if not _STATM.exists():
        return peak_bytes()
    return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
