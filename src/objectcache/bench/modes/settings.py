"""What `bench modes` measures, and the windows that its engine waits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from objectcache.bench.result import MIN_PAIRS
from objectcache.bench.shapes import SHAPES
from objectcache.cache.base import CHUNKWISE
from objectcache.errors import ConfigError
from objectcache.scheduling.windows import WindowModel
from objectcache.simulation.mixes import H100_WINDOWS_S

CHOSEN = "chosen"
NO_CAP = "none"

FACTORS = {"llama-8b": 1.0, "mla-61": 1.5, "llama-70b-tp8": 0.5}
"""Windows of other models beside those: a guess by their sizes."""


def h100_windows() -> WindowModel:
    """Taught by H100_WINDOWS_S."""
    model = WindowModel()
    for (context, hit), window_s in H100_WINDOWS_S.items():
        tokens = round(context * (1 - hit))
        model.observe(tokens, context - tokens, window_s)
    return model


@dataclass(frozen=True)
class ModesSettings:
    """Under each cap (as `--bandwidth` takes it), of each shape, each context with each hit (percent), `rounds` times
    each way: fixed layers per unit, and the gateway's choice. Raises ConfigError."""

    shapes: tuple[str, ...] = tuple(FACTORS)
    contexts: tuple[int, ...] = (1024, 4096)
    hits: tuple[float, ...] = (50.0, 87.5, 96.9)
    caps: tuple[str, ...] = (NO_CAP,)
    fixed: tuple[int, ...] = (1, 2, 4, 8, 16, CHUNKWISE)
    rounds: int = MIN_PAIRS
    target: str = "auto"
    quick: bool = False

    def __post_init__(self) -> None:
        if not set(self.shapes) <= FACTORS.keys() <= SHAPES.keys():
            raise ConfigError(f"a shape is one of {', '.join(FACTORS)}, got {', '.join(self.shapes)}")
        if self.rounds < 1 or (self.rounds < MIN_PAIRS and not self.quick):
            raise ConfigError(
                f"a ratio needs at least {MIN_PAIRS} rounds, got {self.rounds} (fewer only in a quick run)"
            )

    def chunks(self, context: int, hit: float, chunk_tokens: int) -> int:
        return max(1, round(context * hit / 100 / chunk_tokens))

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it."""
        return {name: value for name, value in asdict(self).items() if name != "quick"}
