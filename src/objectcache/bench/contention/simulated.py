"""Mixes under the scheduler alone, on a fluid link: no gateway, no clients."""

from __future__ import annotations

from objectcache.simulation.mixes import Mix, equally_shared_s


def simulated_s(mix: Mix, policy: str) -> list[float]:
    """Added TTFT of each request under `policy`."""
    return list(equally_shared_s(mix))
