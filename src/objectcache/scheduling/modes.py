"""How many layers make up a unit: chosen from payload, windows, the rate to expect and what a unit costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from objectcache.layout import PartShape, delivery_geometry
from objectcache.scheduling.pipeline import arrivals_s, transfer_s, ttft_s

LEAST_UNIT_BYTES = 4 << 20
MOST_UNIT_BYTES = 16 << 20
UNIT_OVERHEAD_S = 60e-6
"""What announcing a unit takes, on both sides together: measured (docs/benchmarks/modes.md)."""
LINE_BYTES_S = 4e9
"""The rate to expect where nobody said."""
TOLERANCE = 0.01
"""By how much of the time to the first token units of the wanted size may be later than the best."""


class Reason(StrEnum):
    """Why a delivery has the units that it has."""

    ASKED = "asked"  # the client said how many layers
    WHOLE = "whole"  # all layers together are no more than a unit should be
    LAYER = "layer"  # one layer is as much as a unit should be
    SIZE = "size"  # units of 4 to 16 MiB, which delay nothing
    OVERLAP = "overlap"  # smaller than that, so that compute begins, and goes on, earlier
    OVERHEAD = "overhead"  # larger than that: each unit costs, and no window hides it


@dataclass(frozen=True, slots=True)
class Mode:
    """Units of `layers_per_unit` layers; `ttft_s` is the time to the first token to expect, from the first byte's
    request on (0: nobody computed it)."""

    layers_per_unit: int
    reason: Reason
    ttft_s: float = 0.0


def choose_mode(
    shapes: Sequence[PartShape],
    *,
    windows_s: Sequence[float] = (),
    rate_bytes_s: float | None = None,
    unit_overhead_s: float = UNIT_OVERHEAD_S,
    asked: int = 0,
) -> Mode:
    """Layers per unit for a delivery of parts of these shapes, without what their receiver holds.

    `windows_s` are compute seconds by layer of the delivery, in order, as far as they are known; `rate_bytes_s` the
    rate to expect (None: no cap). `asked` layers per unit, other than 0, are what it will be.
    """
    if asked:
        return Mode(asked, Reason.ASKED)
    sizes = delivery_geometry(tuple(shapes), 1).unit_wanted_bytes
    layers = len(sizes)
    target = _wanted_layers(layers, sum(sizes))
    if layers == 1 or not any(windows_s):
        # Nothing to hide behind is known: the unit that is worth announcing by itself.
        return Mode(target, _reason(target, target, sizes))
    windows = [*windows_s[:layers], *[windows_s[-1]] * (layers - len(windows_s))]
    rate = rate_bytes_s or LINE_BYTES_S
    alike = min(sizes) == max(sizes) and min(windows) == max(windows)
    seconds = _alike_ttft_s if alike else mode_ttft_s
    times = {
        count: seconds(sizes, windows, count, rate, unit_overhead_s=unit_overhead_s)
        for count in _candidates(layers, target)
    }
    best_s = min(times.values())
    good = sorted(count for count, ttft in times.items() if ttft <= best_s * (1 + TOLERANCE))
    fitting = [count for count in good if count >= target]
    chosen = fitting[0] if fitting else good[-1]
    return Mode(chosen, _reason(chosen, target, sizes), times[chosen])


def mode_ttft_s(
    layer_bytes: Sequence[int],
    windows_s: Sequence[float],
    layers_per_unit: int,
    rate_bytes_s: float,
    *,
    first_byte_s: float = 0.0,
    unit_overhead_s: float = UNIT_OVERHEAD_S,
) -> float:
    """Seconds to the first token with units of so many layers, each of which costs `unit_overhead_s` on the way."""
    starts = range(0, len(layer_bytes), layers_per_unit)
    unit_bytes = [sum(layer_bytes[at : at + layers_per_unit]) for at in starts]
    landed_s = arrivals_s(unit_bytes, rate_bytes_s, first_byte_s=first_byte_s, unit_overhead_s=unit_overhead_s)
    return ttft_s(landed_s, [sum(windows_s[at : at + layers_per_unit]) for at in starts])


def _alike_ttft_s(
    layer_bytes: Sequence[int], windows_s: Sequence[float], count: int, rate_bytes_s: float, *, unit_overhead_s: float
) -> float:
    """`mode_ttft_s` where all layers are alike, quickly: the first unit, or one of the last, holds up the end."""
    layers, window_s = len(layer_bytes), windows_s[0]
    before = (layers - 1) // count  # units before the last one
    unit_s = unit_overhead_s + transfer_s(count * layer_bytes[0], rate_bytes_s)
    last = layers - before * count
    last_s = before * unit_s + unit_overhead_s + transfer_s(last * layer_bytes[0], rate_bytes_s) + last * window_s
    if not before:
        return last_s
    return max(last_s, unit_s + layers * window_s, before * unit_s + (last + count) * window_s)


def usual_layers(shapes: Sequence[PartShape]) -> int:
    """Layers per unit to expect before anything is known but what matched."""
    layers = len({layer for shape in shapes for layer in shape.layers})
    return _wanted_layers(layers, sum(shape.num_chunks * sum(shape.slice_bytes) for shape in shapes))


def _wanted_layers(layers: int, payload_bytes: int) -> int:
    """As many layers as make up a unit worth announcing by itself: 1 for long prefixes, all for short ones."""
    per_layer = max(1, payload_bytes // layers)
    return min(layers, max(1, -(-LEAST_UNIT_BYTES // per_layer)))


def _reason(chosen: int, target: int, sizes: Sequence[int]) -> Reason:
    layers, total = len(sizes), sum(sizes)
    if chosen < target:
        return Reason.OVERLAP
    if chosen == 1 and total >= LEAST_UNIT_BYTES * layers:
        return Reason.LAYER
    if total * chosen > MOST_UNIT_BYTES * layers:
        return Reason.OVERHEAD
    return Reason.WHOLE if chosen == layers else Reason.SIZE


def _candidates(layers: int, target: int) -> set[int]:
    counts = {1, 2, 3, 4, 6, target, layers}
    count = 8
    while count < layers:
        counts |= {count, count * 3 // 2}
        count *= 2
    return {count for count in counts if count <= layers}
