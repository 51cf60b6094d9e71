"""What a simulation is asked to serve: requests, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from objectcache.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Arrival:
    """A prompt of `context_tokens` that comes at `arrival_s`, of whose prefix `hit_tokens` are stored.

    `node` is who serves it, `source` who asks: where no node is named, all of one source go to one node, and what has
    no source goes to any. `window_s` is what a layer computes beside the load; None: the engine's speed says.
    """

    arrival_s: float
    context_tokens: int
    hit_tokens: int
    output_tokens: int = 0
    node: int | None = None
    source: str = ""
    tenant: str = ""
    window_s: float | None = None

    def __post_init__(self) -> None:
        if self.arrival_s < 0 or self.output_tokens < 0 or (self.node is not None and self.node < 0):
            raise ConfigError("a request's time, output tokens and node count from 0")
        if not 0 <= self.hit_tokens < self.context_tokens:
            raise ConfigError(
                f"of {self.context_tokens} tokens at least one is computed, so {self.hit_tokens} cannot be hits"
            )
        if self.window_s is not None and self.window_s < 0:
            raise ConfigError(f"a window is not negative, got {self.window_s}")
