"""What `objectcache simulate` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

from objectcache.bench.shapes import LLAMA_31_8B, ModelShape
from objectcache.errors import ConfigError
from objectcache.simulation.offered import request_load
from objectcache.simulation.settings import Fabric
from objectcache.simulation.workload import (
    CONTEXTS,
    HITS,
    KINDS,
    MOONCAKE_BLOCK_TOKENS,
    Arrival,
    Generated,
    read_workload,
)

REQUESTS = 1000
LOAD = 0.7


@dataclass(frozen=True, slots=True)
class SimulateSettings:
    """`workload` is the name of a kind that is drawn, or a file. `rate` 0: what loads the busiest of engines and links
    by `load`. A file is served `speed` times as fast as it says; its `hash_ids` are looked up in a cache of
    `cache_tokens`, and stored `visible_s` after their request came."""

    fabric: Fabric
    policies: tuple[str, ...]
    workload: str = "poisson"
    requests: int | None = None
    rate: float = 0.0
    load: float = LOAD
    contexts: tuple[int, ...] = CONTEXTS
    hits: tuple[float, ...] = HITS
    seed: int = 1
    speed: float = 1.0
    block_tokens: int = MOONCAKE_BLOCK_TOKENS
    cache_tokens: float = inf
    visible_s: float = 0.0
    jobs: int = 0
    shape: ModelShape = LLAMA_31_8B

    def __post_init__(self) -> None:
        if not self.policies:
            raise ConfigError("at least one policy is needed")
        if self.load <= 0 or self.speed <= 0 or self.rate < 0:
            raise ConfigError("load and speed are positive, and a rate is not negative")
        if self.block_tokens < 1 or self.cache_tokens < 0 or self.visible_s < 0:
            raise ConfigError("blocks have tokens, and caches and times are not negative")

    def arrivals(self) -> tuple[Arrival, ...]:
        """Raises ConfigError."""
        if self.workload not in KINDS:
            return self._read()
        wanted = Generated(
            self.workload, self.requests or REQUESTS, self.rate or 1.0, self.contexts, self.hits, self.seed
        )
        if not self.rate:
            busiest_s = max(request_load(self.fabric, wanted.arrivals()).values())
            wanted = replace(wanted, rate=self.load / busiest_s)
        return wanted.arrivals()

    def _read(self) -> tuple[Arrival, ...]:
        arrivals = read_workload(
            Path(self.workload),
            block_tokens=self.block_tokens,
            capacity_tokens=self.cache_tokens,
            visible_s=self.visible_s,
            limit=self.requests,
        )
        return tuple(replace(arrival, arrival_s=arrival.arrival_s / self.speed) for arrival in arrivals)

    def to_dict(self) -> dict[str, Any]:
        """For the result: no paths of this machine, and no infinities, which JSON lacks."""
        fabric = self.fabric
        links = {name: getattr(fabric, name) for name in ("store_bytes_s", "nic_bytes_s", "client_bytes_s")}
        return {
            "workload": Path(self.workload).name,
            **{name: getattr(self, name) for name in ("rate", "load", "seed", "speed", "block_tokens", "visible_s")},
            "contexts": list(self.contexts),
            "hits": list(self.hits),
            "cache_tokens": _finite(self.cache_tokens),
            "policies": list(self.policies),
            "shape": self.shape.name,
            **{name: getattr(fabric, name) for name in ("nodes", "gateways", "request_s", "landing_s", "loads_ahead")},
            **{name: getattr(fabric, name) for name in ("layers_per_unit", "advice", "decide_s")},
            "weights": dict(fabric.weights),
            "step_tokens": fabric.engine.step_tokens,
            **{name: _finite(rate) for name, rate in links.items()},
        }


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
