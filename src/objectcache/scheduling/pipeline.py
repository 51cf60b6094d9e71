"""When the first token comes: units that arrive one after the other, and compute that needs each of them in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf


def arrivals_s(
    unit_bytes: Sequence[int], rate_bytes_s: float, *, first_byte_s: float = 0.0, unit_overhead_s: float = 0.0
) -> list[float]:
    """When each unit is there, in seconds from the request on. `rate_bytes_s` 0: never; inf: at once."""
    at_s = first_byte_s
    landed = []
    for size in unit_bytes:
        at_s += unit_overhead_s + transfer_s(size, rate_bytes_s)
        landed.append(at_s)
    return landed


def transfer_s(size_bytes: float, rate_bytes_s: float) -> float:
    """Seconds for `size_bytes` at a rate of which 0 and inf are two."""
    if size_bytes <= 0:
        return 0.0
    return size_bytes / rate_bytes_s if rate_bytes_s > 0 else inf


def ttft_s(landed_s: Sequence[float], windows_s: Sequence[float], *, begin_s: float = 0.0) -> float:
    """When the compute of the last unit ends, if that of each begins when it is there and the one before it is done.

    `begin_s`: when the engine begins its step.
    """
    at_s = begin_s
    for landed, window in zip(landed_s, windows_s, strict=True):
        at_s = max(at_s, landed) + window
    return at_s


def alike_ttft_s(runs: Iterable[tuple[int, float]], window_s: float, first_byte_s: float = 0.0) -> float:
    """As `ttft_s` of units that come one after the other from `first_byte_s` on, `count` in a row that take `unit_s`
    each, and so on, when all windows are the same.

    Of those in a row either the first or the last is what keeps the compute: the times between lie on a line.
    """
    at_s, landed_s = 0.0, first_byte_s
    for count, unit_s in runs:
        first_s = max(at_s, landed_s + unit_s) + count * window_s
        landed_s += count * unit_s
        at_s = max(first_s, landed_s + window_s)
    return at_s


def latest_begin_s(landed_s: Sequence[float], windows_s: Sequence[float]) -> float:
    """From when on a step does not stand once: it ends no later than one that begins at once, and holds the device
    only while it computes."""
    return max(0.0, ttft_s(landed_s, windows_s) - sum(windows_s))
