"""How long an engine computes at one layer of a step, learned from the steps that it has done. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from objectcache.errors import ConfigError

ATTENTION_TOKENS = 20_000.0
"""At how long a context attention costs as much as all else of a layer, until steps show it: six times the width of a
model, by count of operations."""
MAX_REGIONS = 96
_STEP_TOKENS = 1024.0
_KEPT = 0.9  # of what was seen in a region, at each step in it
_KEPT_ELSEWHERE = 0.998
_KEPT_IN_CHANGE = 0.5  # once steps are not off by chance any more
_DRIFT = 0.3
_PRIOR = 0.003
_SCALE_KEPT = 0.9
_LEAST_SCALE = 0.05
_CLIP = 2.0

_Vector = tuple[float, float, float]


@dataclass(slots=True)
class _Region:
    """Steps of about the same size, in sums of relative least squares: `moments` is the upper triangle of 3 × 3."""

    weight: float = 0.0
    moments: list[float] = field(default_factory=lambda: [0.0] * 6)
    target: list[float] = field(default_factory=lambda: [0.0] * 3)
    drift: float = 0.0
    """By how much steps have lately been longer than was expected, as a logarithm."""

    def fade(self, kept: float) -> None:
        self.weight *= kept
        self.moments = [value * kept for value in self.moments]
        self.target = [value * kept for value in self.target]

    def add(self, features: _Vector, window_s: float, weight: float) -> None:
        relative = weight / (window_s * window_s)  # errors count by their share of the window
        x, y, z = features
        for i, product in enumerate((x * x, x * y, x * z, y * y, y * z, z * z)):
            self.moments[i] += relative * product
        for i, value in enumerate(features):
            self.target[i] += relative * value * window_s
        self.weight += weight


class WindowModel:
    """Seconds a layer takes in a step of `tokens` tokens behind a context of `context`:

        a + b · tokens + c · tokens · (context + tokens / 2)

    with a, b, c ≥ 0, fitted to what `observe` is told. Steps of one size make those of other sizes forgotten only
    slowly; single steps that are far off count little; a change that stays is followed within some ten steps. Before
    shapes have differed, b and c are told apart by `attention_tokens`. Not thread-safe.
    """

    def __init__(self, *, attention_tokens: float = ATTENTION_TOKENS) -> None:
        if not attention_tokens > 0:
            raise ConfigError(f"attention_tokens must be positive, got {attention_tokens}")
        self._attention_tokens = attention_tokens
        self._regions: dict[tuple[int, int], _Region] = {}
        self._scale = 0.5  # how far off steps are, as a share of their windows
        self._fit: _Vector | None = None
        self.steps = 0

    def observe(self, tokens: int, context: int, window_s: float) -> None:
        """A layer took `window_s` in a step of `tokens` behind `context`. What cannot be is ignored."""
        if tokens < 1 or context < 0 or not 0 < window_s < math.inf:
            return
        weight = 1.0
        expected = self.predict_s(tokens, context)
        key = (tokens.bit_length(), context.bit_length())
        region = self._regions.get(key)
        if expected is not None:
            off = abs(math.log(window_s / max(expected, 1e-12)))
            bound = _CLIP * self._scale
            # Where nothing was known, being off says nothing about the step.
            if off > bound and region is not None and region.weight > 2.0:
                weight = bound / off
            self._scale = max(_LEAST_SCALE, _SCALE_KEPT * self._scale + (1 - _SCALE_KEPT) * min(off, 2 * bound))
        kept = _KEPT
        if region is not None and expected is not None:
            off = max(-1.0, min(1.0, math.log(window_s / max(expected, 1e-12))))
            region.drift += _DRIFT * (off - region.drift)
            kept = _KEPT_IN_CHANGE if abs(region.drift) > _DRIFT else _KEPT
        for other, held in self._regions.items():
            held.fade(kept if other == key else _KEPT_ELSEWHERE)
        if region is None:
            if len(self._regions) >= MAX_REGIONS:
                del self._regions[min(self._regions, key=lambda known: self._regions[known].weight)]
            region = self._regions[key] = _Region()
        region.add(self._features(tokens, context), window_s, weight)
        self.steps += 1
        self._fit = None

    def predict_s(self, tokens: int, context: int) -> float | None:
        """Of one layer; None before anything was observed. 0 for no tokens."""
        if not self._regions:
            return None
        if tokens < 1:
            return 0.0
        if self._fit is None:
            self._fit = self._solved()
        features = self._features(tokens, context)
        return sum(share * feature for share, feature in zip(self._fit, features, strict=True))

    def _features(self, tokens: int, context: int) -> _Vector:
        steps = tokens / _STEP_TOKENS
        return 1.0, steps, steps * (context + tokens / 2) / self._attention_tokens

    def _solved(self) -> _Vector:
        weight = sum(region.weight for region in self._regions.values())
        moments = [sum(region.moments[i] for region in self._regions.values()) for i in range(6)]
        target = [sum(region.target[i] for region in self._regions.values()) for i in range(3)]
        # What steps leave open: no constant, and attention as much as the rest at `attention_tokens`.
        prior = _PRIOR * min(1.0, 1.0 / weight)
        moments[0] *= 1 + prior
        pull = prior * moments[3]
        moments[3] += pull
        moments[4] -= pull
        moments[5] += pull
        rows = ((0, 1, 2), (1, 3, 4), (2, 4, 5))
        matrix = [[moments[index] for index in row] for row in rows]
        return _least_squares(matrix, target)

    # -- to keep it -------------------------------------------------------------------------------

    def to_map(self) -> dict[str, Any]:
        """All that it knows, as JSON or msgpack can carry it."""
        regions = [
            [*key, region.weight, region.moments, region.target, region.drift] for key, region in self._regions.items()
        ]
        return {
            "attention_tokens": self._attention_tokens,
            "scale": self._scale,
            "steps": self.steps,
            "regions": regions,
        }

    @classmethod
    def from_map(cls, data: Mapping[str, Any]) -> WindowModel:
        """The inverse of `to_map`. Raises ConfigError for anything else."""
        try:
            model = cls(attention_tokens=float(data["attention_tokens"]))
            model._scale = max(_LEAST_SCALE, float(data["scale"]))
            model.steps = int(data["steps"])
            for tokens_bits, context_bits, weight, moments, target, drift in data["regions"][:MAX_REGIONS]:
                region = _Region(float(weight), list(map(float, moments)), list(map(float, target)), float(drift))
                numbers = (region.weight, *region.moments, *region.target)
                if (len(region.moments), len(region.target)) != (6, 3) or not all(
                    math.isfinite(number) and number >= 0 for number in numbers
                ):
                    raise ValueError("a region has 1 + 6 + 3 numbers, none of them negative")
                if not abs(region.drift) <= 1:
                    raise ValueError("drift is a number in -1..1")
                model._regions[int(tokens_bits), int(context_bits)] = region
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"this is not what a window model wrote: {error!r}") from error
        return model


def _least_squares(matrix: list[list[float]], target: list[float]) -> _Vector:
    """The x ≥ 0 that has the least xᵀ·matrix·x − 2·target·x: the best over all choices of what is 0."""
    best, found = 0.0, (0.0, 0.0, 0.0)
    for size in (3, 2, 1):
        for chosen in combinations(range(3), size):
            solution = _solve([[matrix[i][j] for j in chosen] for i in chosen], [target[i] for i in chosen])
            if solution is None or min(solution) < 0:
                continue
            loss = -sum(target[i] * value for i, value in zip(chosen, solution, strict=True))
            if loss < best:
                whole = [0.0, 0.0, 0.0]
                for i, value in zip(chosen, solution, strict=True):
                    whole[i] = value
                best, found = loss, (whole[0], whole[1], whole[2])
    return found


def _solve(matrix: list[list[float]], target: list[float]) -> list[float] | None:
    """By elimination, after scaling the diagonal to 1; None where it has no one solution."""
    size = len(target)
    scale = [math.sqrt(matrix[i][i]) if matrix[i][i] > 0 else 0.0 for i in range(size)]
    if not all(scale):
        return None
    rows = [[matrix[i][j] / scale[i] / scale[j] for j in range(size)] + [target[i] / scale[i]] for i in range(size)]
    for i in range(size):
        if rows[i][i] < 1e-10:
            return None
        for k in range(i + 1, size):
            factor = rows[k][i] / rows[i][i]
            rows[k] = [value - factor * pivot for value, pivot in zip(rows[k], rows[i], strict=True)]
    solution = [0.0] * size
    for i in reversed(range(size)):
        rest = sum(rows[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (rows[i][size] - rest) / rows[i][i]
    return [value / scale[i] for i, value in enumerate(solution)]
