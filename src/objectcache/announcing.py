"""Announcing what a delivery reads next, so that a store that is far away has many requests under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from objectcache.plan import Plan
from objectcache.stores import ObjectReader

WINDOW_BYTES = 64 << 20
"""How far announcements are ahead of what is read: what 16 requests of 4 MiB bring in one round trip."""
_STEP_BYTES = 4 << 20


class Announcements:
    """Tells `readers` of the ranges of `plan`, in delivery order. Not thread-safe."""

    def __init__(self, plan: Plan, readers: Mapping[str, ObjectReader], window_bytes: int = WINDOW_BYTES) -> None:
        self._ranges = _ranges(plan, readers)
        self._missing_bytes = window_bytes

    def advance(self, read_bytes: int) -> None:
        """So many more bytes are read now, digest rows counted; before the first are, none."""
        self._missing_bytes += read_bytes
        while self._missing_bytes > 0:
            following = next(self._ranges, None)
            if following is None:
                return
            reader, offset, length = following
            reader.prefetch(offset, length)
            self._missing_bytes -= length


def _ranges(plan: Plan, readers: Mapping[str, ObjectReader]) -> Iterator[tuple[ObjectReader, int, int]]:
    for layer_run in plan.layer_runs():
        run, position = layer_run.run, layer_run.position
        geometry, reader = run.geometry, readers[run.segment]
        begin = geometry.row_offset(position)
        slices = geometry.slice_offset(position, run.first)
        if run.first:  # the row lies apart from the slices
            yield reader, begin, layer_run.row.row_bytes
            begin = slices
        stop = slices + (run.stop - run.first) * layer_run.row.slice_bytes
        for at in range(begin, stop, _STEP_BYTES):
            yield reader, at, min(_STEP_BYTES, stop - at)
