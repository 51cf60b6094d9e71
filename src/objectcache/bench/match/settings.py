"""What `bench match` measures, and how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from objectcache.bench.catalog.settings import CatalogSize
from objectcache.bench.result import MIN_PAIRS
from objectcache.errors import ConfigError

PAIRS = 15


@dataclass(frozen=True)
class MatchSettings:
    """`lengths` of the chains that are asked for, in chunks. `chains` of each kind are asked for in turn, `pairs` times
    all of them. `data` is a directory in which the catalog is kept for other runs (None: a temporary one). Raises
    ConfigError.
    """

    size: CatalogSize = field(default_factory=CatalogSize)
    lengths: tuple[int, ...] = (256, 1024, 4096)
    chains: int = 15
    pairs: int = PAIRS
    data: Path | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if not self.lengths or not 0 < min(self.lengths) <= max(self.lengths) <= self.size.chain_chunks:
            raise ConfigError(f"a chain that is asked for has 1 to {self.size.chain_chunks} chunks")
        if self.pairs < 1 or (self.pairs < MIN_PAIRS and not self.quick):
            raise ConfigError(f"a ratio needs at least {MIN_PAIRS} pairs, got {self.pairs} (fewer only in a quick run)")
        if self.chains < 1:
            raise ConfigError("at least one chain of each kind must be asked for")

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it; no paths."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "quick")}
