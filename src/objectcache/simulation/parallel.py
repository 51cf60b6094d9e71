"""Several policies on the same workload, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import SynchronizedArray

from objectcache.simulation.node import Outcome
from objectcache.simulation.run import simulate
from objectcache.simulation.settings import Fabric
from objectcache.simulation.workload import Arrival

FEW_REQUESTS = 2000
"""So few are served sooner than a process starts."""
_POLL_S = 0.2

_fabric: Fabric
_arrivals: Sequence[Arrival]
_served: SynchronizedArray[int]


def simulate_all(
    fabric: Fabric,
    arrivals: Sequence[Arrival],
    policies: Sequence[str],
    *,
    jobs: int = 0,
    progress: Callable[[int], None] = lambda served: None,
) -> dict[str, list[Outcome]]:
    """By policy. `jobs` processes at once, 0: as many as there are cores. `progress` hears how many requests were
    served more, over all policies. Raises ConfigError."""
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(policies))
    if jobs == 1 or len(arrivals) <= FEW_REQUESTS:
        return {policy: simulate(fabric, arrivals, policy, progress) for policy in policies}
    context = multiprocessing.get_context("spawn")
    served = context.Array("q", len(policies))
    told = 0
    with ProcessPoolExecutor(jobs, context, _begin, (fabric, arrivals, served)) as pool:
        futures = {pool.submit(_simulate, place, policy): policy for place, policy in enumerate(policies)}
        waiting = set(futures)
        while waiting:
            _, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
            count = sum(served[:])
            progress(count - told)
            told = count
        return {policy: future.result() for future, policy in futures.items()}


def _begin(fabric: Fabric, arrivals: Sequence[Arrival], served: SynchronizedArray[int]) -> None:
    global _fabric, _arrivals, _served
    _fabric, _arrivals, _served = fabric, arrivals, served


def _simulate(place: int, policy: str) -> list[Outcome]:
    def progress(count: int) -> None:
        _served[place] += count

    return simulate(_fabric, _arrivals, policy, progress)
