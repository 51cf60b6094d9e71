"""What `bench retrieve` measures, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from objectcache.bench.result import MIN_PAIRS
from objectcache.bench.shapes import SHAPES, ModelShape
from objectcache.client import ClientOptions
from objectcache.errors import ConfigError

FULL_PAIRS = 15


@dataclass(frozen=True, slots=True)
class Sampled:
    """A shape with as many of its layers as are measured, and the contexts that are measured so."""

    shape: ModelShape
    of_layers: int
    contexts: tuple[int, ...]

    def name(self, context: int) -> str:
        """Of a measurement: the key of its figures in the summary."""
        return f"{self.shape.key}/{tokens(context)}"

    @property
    def about(self) -> dict[str, Any]:
        """For rows: what a reader must know of the shape."""
        return {
            "shape": self.shape.key,
            "slice_bytes": self.shape.slice_bytes,
            "layers": self.shape.num_layers,
            "of_layers": self.of_layers,
        }


@dataclass(frozen=True)
class RetrieveSettings:
    """`contexts` in tokens, ascending. `data` is where the gateway's temporary directory is made (None: the system's).

    Every shape is measured at every context. Where all layers would be more than `most_bytes`, only the first ones
    are stored and retrieved: a layer is as large as it should be, there are fewer of them. `verify` are the levels
    measured. The first shape is also measured beside listings, and its prefix in many small segments
    (`first_byte_segment_chunks`) for the time to first byte, since opening them is part of it. `plan_segments` ×
    `plan_segment_chunks` chunks are planned. `gateway` are settings of the gateway's configuration file. Of target
    "nixl" only delivery is measured, since the rest has nothing to do with it. A quick run has fewer pairs than a ratio
    needs and says so. Raises ConfigError.
    """

    shapes: tuple[ModelShape, ...] = tuple(SHAPES.values())
    contexts: tuple[int, ...] = (4096, 16384, 65536)
    pairs: int = FULL_PAIRS
    target: str = "tcp"
    receiver: str = "threads"
    streams: int = field(default_factory=lambda: ClientOptions().streams)
    verify: tuple[str, ...] = ("all", "off")
    most_bytes: int = 2 << 30
    segment_chunks: int = 256
    data: Path | None = None
    gateway: Mapping[str, str] = field(default_factory=dict)
    quick: bool = False
    first_byte_requests: int = 300
    first_byte_segment_chunks: int = 8
    plan_segments: int = 64
    plan_segment_chunks: int = 64
    plan_rounds: int = 100
    listed_objects: int = 3000
    seed: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        if not self.shapes or len({shape.key for shape in self.shapes}) < len(self.shapes):
            raise ConfigError(f"name each shape once, at least one of {', '.join(SHAPES)}")
        if not self.contexts or list(self.contexts) != sorted(set(self.contexts)):
            raise ConfigError("contexts must be token counts in ascending order")
        tokens = max(shape.chunk_tokens for shape in self.shapes)
        if any(context < tokens or context % tokens for context in self.contexts):
            raise ConfigError(f"contexts must be multiples of a chunk's {tokens} tokens, got {self.contexts}")
        if self.pairs < 1 or (self.pairs < MIN_PAIRS and not self.quick):
            raise ConfigError(f"a ratio needs at least {MIN_PAIRS} pairs, got {self.pairs} (fewer only in a quick run)")
        if self.segment_chunks < 1:
            raise ConfigError(f"a segment has at least one chunk, got {self.segment_chunks}")
        if "all" not in self.verify:
            raise ConfigError("delivery is measured with all digests checked; 'sampled' and 'off' can be added")

    @property
    def only_delivery(self) -> bool:
        return self.target == "nixl"

    @property
    def connections(self) -> int:
        """Over which one delivery travels."""
        return 1 if self.target == "http" else self.streams

    def samples(self) -> list[Sampled]:
        """What is stored: contexts of a shape that have as many layers share a prefix."""
        found = []
        for shape in self.shapes:
            by_layers: dict[int, list[int]] = {}
            for context in self.contexts:
                layer_bytes = shape.chunks(context) * shape.slice_bytes
                layers = min(shape.num_layers, max(1, self.most_bytes // layer_bytes))
                by_layers.setdefault(layers, []).append(context)
            for layers, contexts in by_layers.items():
                found.append(Sampled(replace(shape, num_layers=layers), shape.num_layers, tuple(contexts)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it; no paths."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "quick")}


def tokens(context: int) -> str:
    return f"{context // 1024}K" if context % 1024 == 0 else str(context)
