"""The time to first token that a bandwidth cap alone imposes: no path through the cap can be faster."""

from __future__ import annotations

from collections.abc import Sequence


def floor_ms(resident_ms: float, needed_ms: Sequence[float], layer_bytes: int, bytes_s: float) -> float:
    """Of a prefill that takes `resident_ms` with its prefix in place and needs layer l at `needed_ms[l]` after its
    start, when layers of `layer_bytes` come one after the other at `bytes_s` from the start on (0: no cap).

    A layer that comes late moves all that follows; the latest of them decides.
    """
    if not bytes_s:
        return resident_ms
    layer_ms = layer_bytes / bytes_s * 1e3
    late_ms = max((layer + 1) * layer_ms - at_ms for layer, at_ms in enumerate(needed_ms))
    return resident_ms + max(0.0, late_ms)
