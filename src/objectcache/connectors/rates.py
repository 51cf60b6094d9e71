"""How fast a load came, from when its layers landed."""

from __future__ import annotations

from collections.abc import Sequence


def pace_of(requested_s: float, landed_s: Sequence[float]) -> tuple[float, float]:
    """Of layers that landed at `landed_s`: for how long they were coming, and how long their first byte took before.

    Seconds; all times are on one clock.
    """
    seconds, first_byte_s = landed_s[-1] - requested_s, 0.0
    if landed_s[-1] > landed_s[0]:
        # The first layers came in the same time for a byte as the others, but for the time to their first byte.
        share = landed_s.count(landed_s[0]) / len(landed_s)
        rest_s = landed_s[-1] - landed_s[0]
        first_byte_s = max(0.0, landed_s[0] - requested_s - rest_s * share / (1 - share))
    return seconds - first_byte_s, first_byte_s
