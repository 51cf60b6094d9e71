"""What keeps a core busy as an engine's step does, in quanta of equal work.

An engine's thread alternates between operators, which release the interpreter lock while they run, and Python between
them, which holds it. Here: numpy over arrays that stay in the core's own cache, and a loop in Python.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import numpy as np

_FLOATS = 32 * 1024
_QUANTUM_S = 500e-6
_CALLS = 8
"""How many operators, and loops between them, are in one quantum."""


class Compute:
    """`quantum` is about half a millisecond of work, `python_share` of it under the interpreter lock."""

    def __init__(self, python_share: float) -> None:
        rng = np.random.default_rng(0)
        self._left, self._right = rng.random((2, _FLOATS), np.float32)
        self._out = np.empty(_FLOATS, np.float32)
        per_call_s = _QUANTUM_S / _CALLS
        self._operators = _count(lambda: self._operate(1), per_call_s * (1 - python_share))
        self._steps = _count(lambda: _python(100), per_call_s * python_share) * 100
        self.quantum_s = _median_s(self.quantum, 200)

    def quantum(self) -> None:
        for _ in range(_CALLS):
            self._operate(self._operators)
            _python(self._steps)

    def quanta(self, seconds: float) -> int:
        """How many take about so long when nothing disturbs them."""
        return max(1, round(seconds / self.quantum_s))

    def _operate(self, times: int) -> None:
        for _ in range(times):
            np.multiply(self._left, self._right, out=self._out)


def _python(steps: int) -> int:
    total = 0
    for step in range(steps):
        total += step & 7
    return total


def _count(work: Callable[[], object], seconds: float) -> int:
    return round(seconds / _median_s(work, 500))


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
