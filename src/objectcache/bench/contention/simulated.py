"""Mixes under the scheduler alone, on a fluid link: no gateway, no clients."""

from __future__ import annotations

from objectcache.scheduling import Scheduler
from objectcache.simulation.fluid import LINK, added_ttft_s
from objectcache.simulation.mixes import Mix


def simulated_s(mix: Mix, policy: str) -> list[float]:
    """Added TTFT of each request under `policy`."""
    return list(added_ttft_s(mix, Scheduler(policy, {LINK: mix.cap_bytes_s})))
