"""How prefixes are cut: all of them at like depths, in pieces that grow, and never so that much is there twice."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.tier.cutting import LIMIT_SHARE, MOST_BYTES, MOST_STEPS, STEP_BYTES, cut, most_chunks, step_chunks

steps = st.sampled_from([1, 4, 16, 64])
powers = st.sampled_from([1, 2, 4, 8])
lengths = st.integers(1, 5000)


def pieces(chunks: int, step: int, power: int) -> list[tuple[int, int]]:
    return list(cut(chunks, step, power * step))


@given(lengths, steps, powers)
def test_pieces_cover_all_chunks_once(chunks: int, step: int, power: int) -> None:
    found = pieces(chunks, step, power)
    assert found[0][0] == 0
    assert found[-1][1] == chunks
    assert all(stop == at for (_, stop), (at, _) in pairwise(found))
    assert all(at < stop for at, stop in found)


@given(lengths, steps, powers)
def test_pieces_are_no_longer_than_what_is_before_them(chunks: int, step: int, power: int) -> None:
    for at, stop in pieces(chunks, step, power):
        size = stop - at
        assert at % step == 0
        assert size <= max(step, min(at, power * step))
        if stop < chunks:
            assert size % step == 0
            assert (size // step).bit_count() == 1, "a power of two of steps"
            assert at % size == 0


@given(lengths, lengths, steps, powers)
def test_a_longer_prefix_has_the_same_pieces_or_several_in_one(one: int, other: int, step: int, power: int) -> None:
    short, long = (pieces(chunks, step, power) for chunks in sorted((one, other)))
    for at, stop in short:
        (within,) = [piece for piece in long if piece[0] <= at < piece[1]]
        assert stop <= within[1]
    whole = {at for at, _ in long if at < min(one, other)}
    assert whole <= {at for at, _ in short}, "what begins in the longer one begins in the shorter one too"


@given(lengths, steps, powers)
def test_long_prefixes_are_few_pieces(chunks: int, step: int, power: int) -> None:
    most = power.bit_length() + chunks // (power * step) + power.bit_length()
    assert len(pieces(chunks, step, power)) <= most


@given(lengths, steps, powers, st.integers(1, 500))
def test_pieces_that_do_not_fit_are_cut_down_to_a_step(chunks: int, step: int, power: int, limit: int) -> None:
    found = list(cut(chunks, step, power * step, lambda at, stop: stop - at <= limit))
    assert all(stop - at <= max(step, limit) for at, stop in found)
    assert [at for at, _ in found[1:]] + [chunks] == [stop for _, stop in found]


def test_the_first_layers_of_64k_tokens_are_ten_files() -> None:
    """Llama 3.1 8B: slices of 64 KiB, two first layers."""
    step = step_chunks([64 << 10] * 32)
    most = most_chunks(step, 2 * (64 << 10), 64 << 30)
    assert (step, most) == (64, 512)
    found = [(stop - at) // step for at, stop in cut(57344 // 16, step, most)]
    assert found == [1, 1, 2, 4, *[8] * 6]
    assert most_chunks(step, 30 * (64 << 10), 64 << 30) == step, "the rest is 120 MiB with one step"


@given(st.integers(1, 1 << 20), st.integers(1, 64), st.integers(0, 1 << 36))
def test_files_are_small_beside_the_tier(slice_bytes: int, layers: int, limit_bytes: int) -> None:
    step = step_chunks([slice_bytes])
    most = most_chunks(step, layers * slice_bytes, limit_bytes)
    size = most * layers * slice_bytes
    assert most == step or size <= min(MOST_BYTES, limit_bytes // LIMIT_SHARE)
    assert (most // step).bit_count() == 1
    assert step <= most <= MOST_STEPS * step
    if step < most < MOST_STEPS * step:
        assert 2 * size > min(MOST_BYTES, limit_bytes // LIMIT_SHARE), "nor smaller than they may be"


@pytest.mark.parametrize(("slice_bytes", "step"), [(64 << 10, 64), (18 << 10, 128), (1 << 20, 16), (16, 1024)])
def test_a_step_is_a_power_of_two_of_chunks(slice_bytes: int, step: int) -> None:
    assert step_chunks([slice_bytes, 8]) == step
    assert slice_bytes * step <= STEP_BYTES or step == 16
