"""What goes when there is no room."""

from __future__ import annotations

from collections.abc import Iterable

from objectcache.catalog import SegmentRecord

SLACK = 1.25
"""Evict this much more than was asked for, so that not every store has to evict."""


def evict(order: Iterable[SegmentRecord], wanted_bytes: int) -> list[SegmentRecord]:
    """The first segments of `order` (the least worth keeping first) that free `wanted_bytes`, and some more.

    None when all of them together would not be enough: what would be thrown away then helps nobody.
    """
    chosen: list[SegmentRecord] = []
    freed = 0
    for segment in order:
        if freed >= wanted_bytes * SLACK:
            break
        chosen.append(segment)
        freed += segment.total_bytes
    return chosen if freed >= wanted_bytes else []
