"""What `bench catalog` and `bench match` measure, and how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from objectcache.bench.catalog.workload import CatalogWorkload
from objectcache.bench.result import MIN_PAIRS
from objectcache.errors import ConfigError

CHUNKS = 10_000_000
QUICK_CHUNKS = 200_000


@dataclass(frozen=True)
class CatalogSize:
    """At least `chunks` chunks, in whole chains of `chain_chunks`, each in segments of one size: the sizes take turns.

    Raises ConfigError.
    """

    chunks: int = CHUNKS
    chain_chunks: int = 4096
    segment_sizes: tuple[int, ...] = (256, 64, 256, 16, 256, 256, 256, 256)

    def __post_init__(self) -> None:
        if self.chunks < 1 or self.chain_chunks < 1 or not self.segment_sizes or min(self.segment_sizes) < 1:
            raise ConfigError("a catalog has at least one chunk, in segments of at least one")
        if self.chunks < len(self.segment_sizes) * self.chain_chunks:
            least = len(self.segment_sizes) * self.chain_chunks
            raise ConfigError(f"{self.chunks} chunks are too few: {least} are one chain of each kind")

    @property
    def workload(self) -> CatalogWorkload:
        return CatalogWorkload(-(-self.chunks // self.chain_chunks), self.chain_chunks, self.segment_sizes)


@dataclass(frozen=True)
class CatalogSettings:
    """`data` is where a temporary directory is made (None: the system's). `rounds`: how often a catalog is rebuilt;
    `pairs`: how often it is opened, and how many inserts are measured beside bare LMDB's, of `insert_chains` chains
    each; as many more follow as make the catalog grow by `grown_percent`. Raises ConfigError.
    """

    size: CatalogSize = CatalogSize()
    rounds: int = 1
    pairs: int = MIN_PAIRS
    insert_chains: int = 2
    grown_percent: int = 5
    data: Path | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError("a catalog must be rebuilt at least once")
        if self.pairs < 1 or (self.pairs < MIN_PAIRS and not self.quick):
            raise ConfigError(f"a ratio needs at least {MIN_PAIRS} pairs, got {self.pairs} (fewer only in a quick run)")

    @property
    def inserts(self) -> int:
        """All in all, those measured in pairs first."""
        wanted = self.size.chunks * self.grown_percent // 100
        return max(self.pairs, -(-wanted // (self.insert_chains * self.size.chain_chunks)))

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it; no paths."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "quick")}
