"""How figures are taken: several times, the median counts, the compared things take turns."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

__all__ = ["Figure", "interleaved", "per_second", "percentile"]


@dataclass(frozen=True)
class Figure:
    """One line of a table. name: what. figure: how much, in words. goal: what should be reached. reached: was it."""

    name: str
    figure: str
    goal: str = ""
    reached: bool | None = None


def per_second(count: int, work: Callable[[], object]) -> float:
    """Run ``work``, which does ``count`` things, and return things per second."""
    gc.collect()
    began = perf_counter()
    work()
    return count / (perf_counter() - began)


def interleaved(repeat: int, work: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Take each figure ``repeat`` times in turns and return the medians."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeat):
        for name, take in work.items():
            taken[name].append(take())
    return {name: statistics.median(values) for name, values in taken.items()}


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which ``share`` (0..1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
