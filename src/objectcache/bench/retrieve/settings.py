"""What `bench retrieve` measures, and how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from objectcache.bench.result import MIN_PAIRS
from objectcache.client import ClientOptions
from objectcache.errors import ConfigError
from objectcache.layout import KVLayout


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The KV of a model: nothing else of it matters here."""

    name: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype_bytes: int
    chunk_tokens: int = 16

    @property
    def layout(self) -> KVLayout:
        return KVLayout.attention(
            num_layers=self.num_layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype_bytes=self.dtype_bytes,
            chunk_tokens=self.chunk_tokens,
        )


LLAMA_31_8B = ModelShape("Llama 3.1 8B, bf16", num_layers=32, num_kv_heads=8, head_dim=128, dtype_bytes=2)


@dataclass(frozen=True)
class RetrieveSettings:
    """`contexts` in tokens, ascending. `data` is where the gateway's temporary directory is made (None: the system's).

    `first_byte_segment_chunks`: time to first byte is measured on a prefix in many small segments, since opening them
    is part of it. `plan_segments` × `plan_segment_chunks` chunks are planned. A quick run has fewer pairs than a ratio
    needs and says so. Raises ConfigError.
    """

    contexts: tuple[int, ...] = (4096, 16384)
    pairs: int = MIN_PAIRS
    target: str = "tcp"
    receiver: str = "threads"
    streams: int = field(default_factory=lambda: ClientOptions().streams)
    verify: bool = True
    segment_chunks: int = 256
    data: Path | None = None
    quick: bool = False
    shape: ModelShape = LLAMA_31_8B
    first_byte_requests: int = 300
    first_byte_segment_chunks: int = 8
    plan_segments: int = 64
    plan_segment_chunks: int = 64
    plan_rounds: int = 100
    listed_objects: int = 3000
    seed: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        if not self.contexts or list(self.contexts) != sorted(set(self.contexts)):
            raise ConfigError("contexts must be token counts in ascending order")
        tokens = self.shape.chunk_tokens
        if any(context < tokens or context % tokens for context in self.contexts):
            raise ConfigError(f"contexts must be multiples of a chunk's {tokens} tokens, got {self.contexts}")
        if self.pairs < 1 or (self.pairs < MIN_PAIRS and not self.quick):
            raise ConfigError(f"a ratio needs at least {MIN_PAIRS} pairs, got {self.pairs} (fewer only in a quick run)")
        if self.segment_chunks < 1:
            raise ConfigError(f"a segment has at least one chunk, got {self.segment_chunks}")

    @property
    def connections(self) -> int:
        """Over which one delivery travels."""
        return 1 if self.target == "http" else self.streams

    def chunks(self, context: int) -> int:
        return context // self.shape.chunk_tokens

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it; no paths."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "quick")}
