"""What `bench ttft` measures: a model's shape, the cells of its grid, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from objectcache.bench.shapes import LLAMA_31_8B, ModelShape
from objectcache.errors import ConfigError

CORE_CONTEXTS = (4096, 16384, 65536)
LONGEST_CONTEXT = CORE_CONTEXTS[-1]
"""Where computing hides the wire: there is nothing to split."""
CORE_HITS = (0.5, 0.875)
CORE_RUNS, REST_RUNS = 9, 3
LINE_GBPS = 100.0
DECODED_TOKENS = 512
"""What is decoded of one request before another takes its place."""


@dataclass(frozen=True)
class Architecture:
    """A decoder like Llama's: what its prefill computes. `kv` is the shape of what it stores."""

    kv: ModelShape
    hidden: int
    num_heads: int
    intermediate: int
    vocabulary: int

    @property
    def num_layers(self) -> int:
        return self.kv.num_layers


LLAMA_8B = Architecture(LLAMA_31_8B, hidden=4096, num_heads=32, intermediate=14336, vocabulary=128256)
TINY = Architecture(
    ModelShape("tiny", "tiny, float32", num_layers=4, num_kv_heads=2, head_dim=16, dtype_bytes=4),
    hidden=128,
    num_heads=8,
    intermediate=256,
    vocabulary=512,
)
"""For finding out, on a CPU, whether the benchmark works."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting that every path is measured in.

    `context` tokens, of which the first `hit` (a share) are stored. `gbps` caps the gateway (0: no cap). `target` as in
    ClientOptions. `stored` says where: "memory" (a tmpfs) or "disk" (read cold). `step_tokens` is the engine's chunk of
    a prefill (0: all in one step).
    """

    context: int
    hit: float
    gbps: float = LINE_GBPS
    target: str = "tcp"
    stored: str = "memory"
    step_tokens: int = 0

    @property
    def name(self) -> str:
        parts = [f"{self.context // 1024}K" if self.context >= 1024 else str(self.context), f"{self.hit * 100:g} %"]
        parts.append(f"{self.gbps:g} Gbps" if self.gbps else "no cap")
        parts += [self.target] if self.target != "tcp" else []
        parts += [self.stored] if self.stored != "memory" else []
        parts += [f"steps of {self.step_tokens}"] if self.step_tokens else []
        return ", ".join(parts)

    def prefix_tokens(self, chunk_tokens: int) -> int:
        """What is stored: whole chunks, and never the last token, which the engine computes."""
        return min(int(self.context * self.hit), self.context - 1) // chunk_tokens * chunk_tokens

    def steps(self, chunk_tokens: int) -> list[tuple[int, int]]:
        """Tokens [first, stop) of each step of the prefill that follows the stored prefix."""
        first = self.prefix_tokens(chunk_tokens)
        size = self.step_tokens or self.context - first
        return [(at, min(at + size, self.context)) for at in range(first, self.context, size)]


def core_cells(contexts: tuple[int, ...] = CORE_CONTEXTS) -> tuple[Cell, ...]:
    return tuple(Cell(context, hit) for context in contexts for hit in CORE_HITS)


def rest_cells(contexts: tuple[int, ...] = CORE_CONTEXTS) -> tuple[Cell, ...]:
    """Each differs from the core in one thing."""
    longest = contexts[-1]
    high = tuple(Cell(context, 0.96875) for context in contexts)
    caps = tuple(Cell(context, 0.875, gbps=gbps) for gbps in (50.0, 0.0) for context in contexts)
    shared = tuple(Cell(context, 0.875, gbps=gbps, target="shm") for gbps in (LINE_GBPS, 0.0) for context in contexts)
    disk = tuple(Cell(context, 0.875, stored="disk") for context in contexts)
    return (*high, *caps, *shared, *disk, Cell(longest, 0.5, step_tokens=longest // 8))


@dataclass(frozen=True)
class TtftSettings:
    """`cells` are measured `runs` times each, `recompute_runs` where a path computes the whole prompt.

    With `decodes`, each cell is also measured while so many other requests, of `decode_context` tokens, are decoded.
    `receiver`, `receiver_processes` and `streams` are as in ClientOptions. `memory` and `disk` are directories to store
    in meanwhile (None: a tmpfs, and the system's temporary directory). `gateway` are settings of the gateway's
    configuration file; so many `gateway_cores` are its own, and the others the engine's and its client's (0: all are
    everybody's). Raises ConfigError.
    """

    architecture: Architecture = LLAMA_8B
    cells: tuple[Cell, ...] = field(default_factory=core_cells)
    runs: int = CORE_RUNS
    recompute_runs: int = REST_RUNS
    device: str = "cuda"
    receiver: str = "threads"
    receiver_processes: int = 0
    streams: int = 4
    paths: tuple[str, ...] = ()
    decodes: int = 0
    decode_context: int = 1024
    segment_chunks: int = 256
    first_layers: int = 1
    memory: Path | None = None
    disk: Path | None = None
    gateway: Mapping[str, str] = field(default_factory=dict)
    gateway_cores: int = 0
    quick: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if self.decodes < 0 or self.decode_context < 1:
            raise ConfigError(f"there cannot be {self.decodes} decodes of {self.decode_context} tokens")
        if not self.cells or self.runs < 1:
            raise ConfigError("there must be at least one cell and one run")
        tokens = self.architecture.kv.chunk_tokens
        for cell in self.cells:
            if not 0 < cell.prefix_tokens(tokens) < cell.context:
                raise ConfigError(f"{cell.name}: a hit must be whole chunks of {tokens} tokens, less than the context")

    @property
    def longest_prefix(self) -> int:
        """In tokens."""
        return max(cell.prefix_tokens(self.architecture.kv.chunk_tokens) for cell in self.cells)

    @property
    def longest_context(self) -> int:
        return max(cell.context for cell in self.cells)

    @property
    def most_positions(self) -> int:
        """Of any sequence."""
        decoding = self.decode_context + DECODED_TOKENS if self.decodes else 0
        return max(self.longest_context, decoding)

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it; no paths of this machine."""
        return {name: value for name, value in asdict(self).items() if name not in ("memory", "disk", "quick")}
