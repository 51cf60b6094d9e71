"""Where the milliseconds are that a run takes longer than another one of the same cell."""

from __future__ import annotations

from objectcache.bench.ttft.timeline import Timeline


def added_parts_ms(run: Timeline, ttft_ms: float, base: Timeline, base_ttft_ms: float) -> dict[str, float]:
    """What `run` spends more than `base` on each of these; their sum is what it takes longer.

    "answer": until the gateway has said that it sends. "first layer": from there until the first attention begins.
    "later layers": between the end of each layer and the next attention. "computing": in the layers. "end": after them.
    """

    def parts(timeline: Timeline, end_ms: float) -> list[float]:
        answered_ms = timeline.answered_ms or 0.0
        needed, computed = timeline.needed_ms, timeline.computed_ms
        between = sum(at - before for before, at in zip(computed, needed[1:], strict=False))
        within = sum(end - start for start, end in zip(needed, computed, strict=True))
        return [answered_ms, needed[0] - answered_ms, between, within, end_ms - computed[-1]]

    names = ("answer", "first layer", "later layers", "computing", "end")
    pairs = zip(names, parts(run, ttft_ms), parts(base, base_ttft_ms), strict=True)
    return {name: mine - others for name, mine, others in pairs}
