"""Staging memory: bounded, never handed out twice, and looked after only where there is no room."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.buffers import Buffer
from objectcache.errors import BufferPoolExhaustedError, ObjectCacheError
from objectcache.storing.staging import Staging

PAGE = 4096
SIZE = 8 * PAGE


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * PAGE)), max_size=60))
def test_what_is_in_use_never_overlaps_and_whatever_fits_is_found(steps: list[tuple[bool, int]]) -> None:
    staging = Staging(SIZE)
    held: list[Buffer] = []
    peak = 0
    for take, size in steps:
        if take:
            try:
                held.append(staging.take(size))
            except BufferPoolExhaustedError:
                assert not holes(held, size)
        elif held:
            staging.give_back(held.pop(size % len(held)))
        used = sum(staged.size_bytes for staged in held)
        peak = max(peak, used)
        assert (staging.used_bytes, staging.peak_bytes) == (used, peak)
        places = sorted((staged.offset, staged.offset + staged.size_bytes) for staged in held)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(places))
        assert not places or places[-1][1] <= SIZE
    staging.close()


def holes(held: list[Buffer], size: int) -> bool:
    """Whether there is a gap of so many bytes between what is held."""
    ends = [0, *sorted(staged.offset + staged.size_bytes for staged in held)]
    begins = [*sorted(staged.offset for staged in held), SIZE]
    return any(begin - end >= size for end, begin in zip(ends, begins, strict=True))


def test_what_came_back_is_handed_out_as_it_is() -> None:
    staging = Staging(SIZE)
    first, second = staging.take(PAGE), staging.take(PAGE)
    staging.give_back(first)
    staging.give_back(second)
    assert staging.take(PAGE) is second
    assert staging.take(PAGE) is first
    staging.close()


def test_nothing_is_given_back_twice() -> None:
    staging = Staging(SIZE)
    staged = staging.take(PAGE)
    staging.give_back(staged)
    with pytest.raises(KeyError):
        staging.give_back(staged)
    assert staging.take(PAGE) is not staging.take(PAGE)
    staging.close()


def test_it_is_reaped_only_where_there_is_no_room() -> None:
    staging = Staging(SIZE)
    reaped: list[Buffer] = []

    def reap() -> None:
        reaped.append(held[0])
        staging.give_back(held.pop(0))

    staging.reap = reap
    held = [staging.take(PAGE) for _ in range(8)]
    assert reaped == []
    staging.take(PAGE)
    assert len(reaped) == 1
    staging.close()


def test_closed_it_has_nothing_left_whatever_comes_back() -> None:
    staging = Staging(SIZE)
    held, back = staging.take(PAGE), staging.take(PAGE)
    staging.give_back(back)
    staging.close()
    staging.give_back(held)
    with pytest.raises(ObjectCacheError, match="closed"):
        staging.take(PAGE)
