"""How much of a prefix goes into one file of the tier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

STEP_BYTES = 4 << 20
"""About how much of one layer the shortest files hold, but for a prefix's last."""
MIN_STEP_CHUNKS, MAX_STEP_CHUNKS = 16, 1024
MOST_STEPS = 8
"""That the longest files hold: so a conversation that grows has 64 MiB written at once, seldom, rather than more."""
MOST_BYTES = 64 << 20
"""Files of more than one step are no larger: the rest of most models, some thirty layers, is past that with one."""
LIMIT_SHARE = 16
"""Nor than this part of the tier: what goes for a new one is then about what is needed."""


def step_chunks(slice_bytes: Sequence[int]) -> int:
    """How many chunks are a step, at which files may begin: a power of two."""
    wanted = STEP_BYTES // max(slice_bytes)
    return min(MAX_STEP_CHUNKS, max(MIN_STEP_CHUNKS, 1 << max(0, wanted.bit_length() - 1)))


def most_chunks(step: int, chunk_bytes: int, limit_bytes: int) -> int:
    """How many chunks of `chunk_bytes` a file holds at most, in a tier of `limit_bytes`: a power of two of steps."""
    steps = min(MOST_STEPS, min(MOST_BYTES, limit_bytes // LIMIT_SHARE) // (step * chunk_bytes))
    return step << max(0, steps.bit_length() - 1)


def cut(
    chunks: int, step: int, most: int, fits: Callable[[int, int], bool] = lambda at, stop: True
) -> Iterator[tuple[int, int]]:
    """Chunks [0, chunks) in pieces [at, stop): each is the longest power of two of steps up to `most` that begins at a
    multiple of itself, is not longer than all before it, ends within the chunks, and `fits`; the last may be shorter
    than a step.

    So what another prefix has in pieces of its own is not longer than what both share, and those of a prefix that has
    grown are the same, or several of the old ones in one.
    """
    at = 0
    while at < chunks:
        size = max(step, min(most, at & -at))
        while size > step and (at + size > chunks or not fits(at, at + size)):
            size //= 2
        yield at, min(chunks, at + size)
        at += size
