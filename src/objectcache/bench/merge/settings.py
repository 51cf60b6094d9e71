"""What `bench merge` measures, and how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from objectcache.bench.result import MIN_PAIRS
from objectcache.bench.shapes import LLAMA_31_8B, ModelShape
from objectcache.errors import ConfigError


@dataclass(frozen=True)
class MergeSettings:
    """A conversation of `turns` turns, each of which stored `turn_chunks` chunks. `latency_s` is how far the far store
    is away; `data` is where the temporary directory is made (None: the system's). Raises ConfigError.
    """

    turns: int = 64
    turn_chunks: int = 4
    pairs: int = MIN_PAIRS
    latency_s: float = 0.03
    data: Path | None = None
    quick: bool = False
    shape: ModelShape = LLAMA_31_8B
    seed: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        if self.turns < 2 or self.turn_chunks < 1:
            raise ConfigError("a conversation has at least 2 turns, each of at least 1 chunk")
        if self.pairs < 1 or (self.pairs < MIN_PAIRS and not self.quick):
            raise ConfigError(f"a ratio needs at least {MIN_PAIRS} pairs, got {self.pairs} (fewer only in a quick run)")

    @property
    def chunks(self) -> int:
        return self.turns * self.turn_chunks

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it; no paths."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "quick")}
