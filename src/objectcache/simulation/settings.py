"""What is simulated: nodes, gateways, links, and what a request costs beside its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from objectcache.errors import ConfigError
from objectcache.layout import KVLayout
from objectcache.simulation.engine import EngineSpeed

LINE_BYTES_S = 12.5e9  # 100 Gbps
SERVER_DECIDES = 0


@dataclass(frozen=True, slots=True)
class Fabric:
    """Node n belongs to gateway n modulo `gateways`: a client has its session with one.

    `store_bytes_s` is of the store behind all gateways, which have equal shares of it (as configured shares are);
    `nic_bytes_s` is each gateway's, `client_bytes_s` each node's. inf: no cap. `request_s` is from asking until the
    first byte leaves, `landing_s` from a unit's last byte until the engine may read it. `loads_ahead` requests of a
    node's queue may be loaded beside the one that is computed. `layers_per_unit` 0: as the server decides. With
    `advice`, requests whose engine is free load as much of their prefix as load-or-recompute says.
    While nothing begins or ends, gateways decide `decide_s` apart at least; 0: as often as the scheduler asks for.
    """

    layout: KVLayout = field(
        default_factory=lambda: KVLayout.attention(num_layers=32, num_kv_heads=8, head_dim=128, dtype_bytes=2)
    )
    engine: EngineSpeed = field(default_factory=EngineSpeed)
    nodes: int = 8
    gateways: int = 1
    store_bytes_s: float = inf
    nic_bytes_s: float = LINE_BYTES_S
    client_bytes_s: float = LINE_BYTES_S
    request_s: float = 1.3e-3
    landing_s: float = 0.3e-3
    decide_s: float = 0.0
    loads_ahead: int = 1
    layers_per_unit: int = SERVER_DECIDES
    advice: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.gateways <= self.nodes:
            raise ConfigError(f"each of {self.gateways} gateways needs a node, there are {self.nodes}")
        if min(self.store_bytes_s, self.nic_bytes_s, self.client_bytes_s) <= 0:
            raise ConfigError("links have a positive rate")
        if (
            min(self.request_s, self.landing_s) < 0
            or self.loads_ahead < 0
            or self.layers_per_unit < 0
            or self.decide_s < 0
        ):
            raise ConfigError("times, loads ahead and layers per unit count from 0")
        if len(self.layout.groups) != 1 or len(self.layout.groups[0].shards) != 1:
            raise ConfigError("layouts of one group and one shard can be simulated")

    @property
    def store_share_bytes_s(self) -> float:
        """Of the store, for one gateway."""
        return self.store_bytes_s / self.gateways
