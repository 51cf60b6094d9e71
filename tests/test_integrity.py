"""Digests: what they are bound to, and what they recognise."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import IntegrityError
from objectcache.integrity import LayerBinding, layer_row, record_digest, seal, span_matches, unseal
from objectcache.keys import KeyChain
from objectcache.layout import DIGEST_BYTES, LayerRow, Span
from tests.segments import random_chain

DATA = Random(7).randbytes(1000)
KEY, OTHER_KEY = bytes(32), bytes(31) + b"\1"


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32))
def test_each_kind_of_digest_is_its_own(data: bytes, key: bytes) -> None:
    binding = LayerBinding(0, 0, 0)
    digests = {binding.slice_digest(data, key), binding.piece_digest(data, key, 1), binding.row_digest(data, key, 1)}
    assert len(digests) == 3
    assert {len(digest) for digest in digests} == {DIGEST_BYTES}
    assert record_digest(data) not in digests


def test_digests_are_bound_to_group_shard_layer_key_and_count() -> None:
    bindings = [LayerBinding(g, s, layer) for g in (0, 1, 63) for s in (0, 1, 4095) for layer in (0, 1, 4095)]
    digests = [
        digest
        for binding in bindings
        for key in (KEY, OTHER_KEY)
        for digest in (
            binding.slice_digest(DATA, key),
            *(binding.piece_digest(DATA, key, count) for count in (1, 2)),
            *(binding.row_digest(DATA, key, count) for count in (1, 2)),
        )
    ]
    assert len(set(digests)) == len(digests) == 27 * 2 * 5


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 9, 16, 17, 100, 128, 129, 240, 241, 1000])
def test_every_flipped_bit_changes_a_digest(size: int) -> None:
    """The lengths are those at which the hash changes its method."""
    binding = LayerBinding(1, 2, 3)
    right = binding.slice_digest(DATA[:size], KEY)
    for bit in range(8 * size):
        flipped = bytearray(DATA[:size])
        flipped[bit // 8] ^= 1 << bit % 8
        assert binding.slice_digest(flipped, KEY) != right


@st.composite
def layers(draw: st.DrawFn) -> tuple[LayerRow, KeyChain, bytes]:
    # Slices of half a MiB and more are left to the segments' tests: they only make this one slow.
    row = LayerRow(draw(st.integers(1, 40)), draw(st.sampled_from([1, 3, 64, 50_000])))
    seed = draw(st.integers(0, 1 << 32))
    return row, random_chain(seed, row.num_chunks), Random(seed).randbytes(row.num_chunks * row.slice_bytes)


def matches(row: LayerRow, span: Span, keys: KeyChain, digests: bytes, data: bytes) -> bool:
    begin, end = row.digest_range(span)
    size = row.slice_bytes
    part = data[span.first * size : span.stop * size]
    return span_matches(LayerBinding(1, 2, 3), span, size, keys[span.first : span.stop], digests[begin:end], part)


@given(layers(), st.data())
def test_any_span_of_a_layer_verifies_and_no_damaged_one(
    layer: tuple[LayerRow, KeyChain, bytes], data: st.DataObject
) -> None:
    row, keys, content = layer
    digests = layer_row(LayerBinding(1, 2, 3), row, keys, memoryview(content))
    assert len(digests) == row.row_bytes
    first = data.draw(st.integers(0, row.num_chunks - 1))
    stop = data.draw(st.integers(first + 1, row.num_chunks))
    flipped = bytearray(content)
    at = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped[at // 8] ^= 1 << at % 8
    for span in row.spans(first, stop):
        assert matches(row, span, keys, digests, content)
        touched = span.first <= at // 8 // row.slice_bytes < span.stop
        assert matches(row, span, keys, digests, bytes(flipped)) is not touched


def test_spans_of_another_shape_do_not_match() -> None:
    row, keys, content = LayerRow(4, 10), random_chain(1, 4), DATA[:40]
    binding = LayerBinding(0, 0, 0)
    digests = layer_row(binding, row, keys, memoryview(content))
    assert row.num_pieces == 1
    piece, slices = Span(0, 4, 0), Span(0, 4, None)
    for span, own in [(piece, digests[:16]), (slices, digests[16:])]:
        assert span_matches(binding, span, 10, keys, own, content)
        assert not span_matches(binding, span, 10, keys, own, content[:-1])
        assert not span_matches(binding, span, 10, keys, own, content + b"\0")
        assert not span_matches(binding, span, 10, keys[:3], own, content)
        assert not span_matches(binding, span, 10, keys, own[:-1], content)
        assert not span_matches(binding, span, 10, keys, own + b"\0", content)
        assert not span_matches(binding, span, 10, keys, b"", content)
        # The last key is the only one a piece is bound to: it names the chain before it.
        assert not span_matches(binding, span, 10, random_chain(2, 4), own, content)
    assert not span_matches(binding, slices, 10, keys, digests[:64], content)


@given(st.binary(max_size=200))
def test_a_sealed_record_comes_back(data: bytes) -> None:
    assert bytes(unseal(seal(data), "a record")) == data
    assert bytes(unseal(memoryview(bytearray(seal(data))), "a record")) == data


def test_a_sealed_record_shows_every_damage() -> None:
    sealed = seal(DATA[:60])
    for length in range(len(sealed)):
        with pytest.raises(IntegrityError, match="a record"):
            unseal(sealed[:length], "a record")
    with pytest.raises(IntegrityError):
        unseal(sealed + b"\0", "a record")
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            unseal(flipped, "a record")
