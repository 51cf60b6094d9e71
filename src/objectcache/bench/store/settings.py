"""What `bench store` measures, and how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from objectcache.bench.result import MIN_PAIRS
from objectcache.bench.shapes import LLAMA_31_8B, ModelShape
from objectcache.errors import ConfigError


@dataclass(frozen=True)
class StoreSettings:
    """`context` in tokens: one synthetic prefill; `prefills` of them, one after the other, are one measurement.

    `through`: "direct" (a file store of this process) or "gateway". `writer` as in StoreOptions. `rate`: what the
    prefill produces, as a share of what the raw loop sustains. `staging_bytes` is small beside a measurement, so that
    it hides no store that is too slow. `python_share` of the compute thread's time holds the interpreter lock.
    `data` is where it stores meanwhile (None: the system's temporary directory). Raises ConfigError.
    """

    context: int = 4096
    prefills: int = 3
    pairs: int = 15
    through: str = "direct"
    writer: str = "auto"
    rate: float = 1.0
    staging_bytes: int = 256 << 20
    segment_chunks: int = 64
    python_share: float = 0.25
    warm_rounds: int = 2
    data: Path | None = None
    quick: bool = False
    shape: ModelShape = LLAMA_31_8B
    seed: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        tokens = self.shape.chunk_tokens
        if self.context < tokens or self.context % tokens:
            raise ConfigError(f"the context must be a multiple of a chunk's {tokens} tokens, got {self.context}")
        if self.pairs < 1 or (self.pairs < MIN_PAIRS and not self.quick):
            raise ConfigError(f"a ratio needs at least {MIN_PAIRS} pairs, got {self.pairs} (fewer only in a quick run)")
        if self.through not in ("direct", "gateway"):
            raise ConfigError(f"through must be 'direct' or 'gateway', got {self.through!r}")
        if not 0 <= self.python_share < 1 or self.rate <= 0 or self.prefills < 1:
            raise ConfigError("python_share must lie in [0, 1), rate and prefills must be positive")

    @property
    def chunks(self) -> int:
        return self.context // self.shape.chunk_tokens

    @property
    def layer_bytes(self) -> int:
        """Of one prefill at one layer."""
        return self.chunks * self.shape.layout.shard(0, 0).slice_bytes[0]

    @property
    def prefill_bytes(self) -> int:
        return self.layer_bytes * self.shape.num_layers

    @property
    def payload_bytes(self) -> int:
        """Of one measurement."""
        return self.prefill_bytes * self.prefills

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it; no paths."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "quick")}
