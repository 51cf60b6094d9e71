"""What `bench peers` measures, beside whom, and how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from objectcache.bench.result import MIN_PAIRS
from objectcache.bench.shapes import LLAMA_31_8B, ModelShape
from objectcache.errors import ConfigError

SERVERS = ("nginx", "seaweedfs", "gateway")
FULL_PAIRS = 15


@dataclass(frozen=True)
class PeersSettings:
    """`context` in tokens. The bars are for the first of `targets`. `data` is where everything is stored meanwhile
    (None: in the system's temporary directory).

    `parallel` GETs are in flight. A ranged GET per chunk and layer is measured for `ranged_layers` of the layers, the
    first among them, and scaled. `lmcache_python` is an interpreter that has LMCache (None: there is none), whose
    objects are of `lmcache_tokens`. A quick run has fewer pairs than a ratio needs and says so. Raises ConfigError.
    """

    context: int = 16384
    pairs: int = FULL_PAIRS
    targets: tuple[str, ...] = ("tcp",)
    servers: tuple[str, ...] = SERVERS
    parallel: int = 32
    ranged_layers: int = 2
    segment_chunks: int = 256
    lmcache_python: Path | None = None
    lmcache_tokens: int = 256
    data: Path | None = None
    quick: bool = False
    shape: ModelShape = LLAMA_31_8B
    seed: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        tokens = self.shape.chunk_tokens
        if self.context < tokens or self.context % tokens:
            raise ConfigError(f"the context must be a multiple of a chunk's {tokens} tokens, got {self.context}")
        if self.lmcache_tokens < tokens or self.lmcache_tokens % tokens:
            raise ConfigError(f"LMCache's chunk must be a multiple of {tokens} tokens, got {self.lmcache_tokens}")
        if self.pairs < 1 or (self.pairs < MIN_PAIRS and not self.quick):
            raise ConfigError(f"a ratio needs at least {MIN_PAIRS} pairs, got {self.pairs} (fewer only in a quick run)")
        if self.segment_chunks < 1:
            raise ConfigError(f"a segment has at least one chunk, got {self.segment_chunks}")
        if not 1 <= self.ranged_layers <= self.shape.num_layers:
            raise ConfigError(f"1 to {self.shape.num_layers} layers can be read by ranges, got {self.ranged_layers}")
        for what, names in (("target", self.targets), ("server", self.servers)):
            if not names or len(set(names)) < len(names):
                raise ConfigError(f"name each {what} once, and at least one, got {', '.join(names) or 'none'}")
        unknown = set(self.servers) - set(SERVERS)
        if unknown:
            raise ConfigError(f"{unknown.pop()!r} is no server: known are {', '.join(SERVERS)}")

    @property
    def chunks(self) -> int:
        return self.context // self.shape.chunk_tokens

    @property
    def sampled_layers(self) -> list[int]:
        """Those read by ranges: the first, and others at even distances."""
        return [place * self.shape.num_layers // self.ranged_layers for place in range(self.ranged_layers)]

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it: no paths."""
        left_out = ("data", "quick", "lmcache_python")
        return {name: value for name, value in asdict(self).items() if name not in left_out}
