"""What `bench contention` measures, and how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from objectcache.bench.contention.rows import EQUAL
from objectcache.errors import ConfigError
from objectcache.scheduling import DEFAULT_POLICY, POLICIES

MIN_MIXES, MIN_REAL_MIXES = 40, 12
"""Fewer do not support a claim."""


@dataclass(frozen=True)
class ContentionSettings:
    """`mixes` are drawn with `seed`; the first `real_mixes` of them go through a real gateway, `repeats` times under
    each policy, with bytes and caps divided by `scale`. The first `wrong_mixes` of those also with wrong windows, and
    with a
    client that lies. `data` is where the temporary directory is made (None: the system's). Raises ConfigError.
    """

    mixes: int = MIN_MIXES
    real_mixes: int = MIN_REAL_MIXES
    wrong_mixes: int = 3
    repeats: int = 3
    scale: int = 64
    policies: tuple[str, ...] = tuple(POLICIES)
    default_policy: str = DEFAULT_POLICY
    target: str = "tcp"
    streams: int = 1
    verify: str = "all"
    data: Path | None = None
    quick: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if not {EQUAL, self.default_policy} <= set(self.policies):
            raise ConfigError(f"policies must have {EQUAL!r} and the default, {self.default_policy!r}, among them")
        if not 0 <= self.wrong_mixes <= self.real_mixes <= self.mixes or not self.mixes:
            raise ConfigError(
                f"real mixes must lie in 0..{self.mixes} (mixes), got {self.real_mixes}; those with wrong windows in "
                f"0..{self.real_mixes} (real mixes), got {self.wrong_mixes}"
            )
        if not self.quick and (self.mixes < MIN_MIXES or self.real_mixes < MIN_REAL_MIXES):
            raise ConfigError(
                f"at least {MIN_MIXES} mixes, {MIN_REAL_MIXES} of them real, got {self.mixes} and {self.real_mixes} "
                "(fewer only in a quick run)"
            )
        if self.repeats < 1:
            raise ConfigError(f"at least one repeat, got {self.repeats}")

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it; no paths."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "quick")}
