"""What would be stored: a cache of blocks in order of use, for traces that name blocks and not hits."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence


class BlockCache:
    """At most `capacity` blocks, the least recently used go first. Times are given, and never fall.

    Blocks are there `visible_s` after the request that computes them: a prefill takes its time.
    """

    def __init__(self, capacity: int, visible_s: float = 0.0) -> None:
        self._capacity = capacity
        self._visible_s = visible_s
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._coming: deque[tuple[float, Sequence[int]]] = deque()

    def request(self, now_s: float, blocks: Sequence[int]) -> int:
        """How many of the first `blocks` are there; all of them will be."""
        while self._coming and self._coming[0][0] <= now_s:
            self._store(self._coming.popleft()[1])
        hits = 0
        for block in blocks:
            if block not in self._blocks:
                break
            hits += 1
        self._store(blocks[:hits])
        if self._visible_s > 0:
            self._coming.append((now_s + self._visible_s, blocks))
        else:
            self._store(blocks)
        return hits

    def _store(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):  # a prefix is used later than what follows it, and so outlives it
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
