"""How much of what arrives is checked against its digests."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from objectcache.errors import ConfigError


class Level(StrEnum):
    ALL = "all"
    SAMPLED = "sampled"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Verification:
    """`level` "all" checks every span before it is announced, "off" none. "sampled" checks all spans of a delivery's
    first layer, so that a mix-up of prefixes, segments or places is found before the engine begins, and of the others
    a random `fraction`: a store that damages bytes is noticed after a while, but single damaged spans get through.

    Raises ConfigError.
    """

    level: str = Level.ALL
    fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.level not in tuple(Level):
            raise ConfigError(f"verify must be one of {', '.join(Level)}, got {self.level!r}")
        if not 0.0 < self.fraction <= 1.0:
            raise ConfigError(f"verify_fraction must lie above 0 and at most at 1, got {self.fraction}")

    def wants(self, *, first_layer: bool) -> bool:
        """Whether the next span is to be checked; `first_layer`: it is of the first layer that is delivered."""
        if self.level == Level.SAMPLED:
            return first_layer or random.random() < self.fraction
        return self.level == Level.ALL
