"""Latencies of millions of events in a few kilobytes: counted in buckets that grow by two per cent."""

from __future__ import annotations

import math
import threading
from collections import Counter

__all__ = ["Latencies"]

GROWTH = math.log(1.02)
SMALLEST = 1e-6


class Latencies:
    """Counts seconds; percentiles are exact to two per cent. Safe to use from several threads."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._lock = threading.Lock()

    def note(self, seconds: float) -> None:
        """Count one latency; what is below a microsecond counts as one."""
        bucket = int(math.log(max(seconds, SMALLEST) / SMALLEST) / GROWTH)
        with self._lock:
            self._buckets[bucket] += 1

    def percentile(self, share: float) -> float:
        """Return the seconds within which ``share`` (above 0, up to 1) of all were; 0.0 without any."""
        with self._lock:
            counted = sorted(self._buckets.items())
        wanted = math.ceil(share * sum(count for _, count in counted))
        for bucket, count in counted:
            wanted -= count
            if wanted <= 0:
                return SMALLEST * math.exp((bucket + 1) * GROWTH)
        return 0.0
