"""What keeps a core busy as an engine's step does, in quanta of equal work.

An engine's thread alternates between Python, which holds the interpreter lock, and operators that it runs or waits for
without the lock. Here: a loop in Python, and SHA-256 over bytes that stay in the core's own cache, on this very thread.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

_QUANTUM_S = 250e-6
_PROBE_BYTES = 64 << 10


class Compute:
    """`quantum` is about a quarter of a millisecond: `python_share` of it under the lock, then one call without it."""

    def __init__(self, python_share: float) -> None:
        data = np.random.default_rng(0).bytes(1 << 20)
        probe_s = _median_s(lambda: hashlib.sha256(data[:_PROBE_BYTES]), 200)
        self._data = data[: round(_PROBE_BYTES * _QUANTUM_S * (1 - python_share) / probe_s)]
        self._steps = round(_QUANTUM_S * python_share / _median_s(lambda: _python(100), 500)) * 100
        self.quantum_s = _median_s(self.quantum, 400)

    def quantum(self) -> None:
        _python(self._steps)
        hashlib.sha256(self._data)

    def quanta(self, seconds: float) -> int:
        """How many take about so long when nothing disturbs them."""
        return max(1, round(seconds / self.quantum_s))


def _python(steps: int) -> int:
    total = 0
    for step in range(steps):
        total += step & 7
    return total


def _median_s(work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start_s)
    return statistics.median(taken)


def split_cores() -> tuple[set[int], set[int]]:
    """The core of what computes, and those of everything else; the same one where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[-1]}, set(cores[:-1]) or {cores[-1]}
