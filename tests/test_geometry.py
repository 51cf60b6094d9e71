"""Where things lie: a layer's digest row, a segment, a delivery's destination."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import LayoutError
from objectcache.layout import (
    ALIGNMENT_BYTES,
    DIGEST_BYTES,
    PIECE_BYTES,
    DeliveryGeometry,
    LayerRow,
    PartShape,
    SegmentGeometry,
    align_up,
)

# Tiny slices share a piece by the thousand, large ones fill one each; the values around a half are the boundary.
slice_sizes = st.one_of(
    st.integers(1, 100),
    st.integers(PIECE_BYTES // 8, PIECE_BYTES // 2 + 1),
    st.sampled_from([PIECE_BYTES // 2, PIECE_BYTES // 2 + 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 << 20]),
)


@st.composite
def rows(draw: st.DrawFn) -> LayerRow:
    return LayerRow(draw(st.integers(1, 100)), draw(slice_sizes))


@st.composite
def rows_and_ranges(draw: st.DrawFn) -> tuple[LayerRow, int, int]:
    row = draw(rows())
    first = draw(st.integers(0, row.num_chunks - 1))
    return row, first, draw(st.integers(first + 1, row.num_chunks))


@given(rows())
def test_pieces_partition_a_layer(row: LayerRow) -> None:
    pieces = [row.piece_range(piece) for piece in range(row.num_pieces)]
    if not pieces:
        assert 2 * row.slice_bytes > PIECE_BYTES  # a piece would be a single slice
        return
    assert pieces[0][0] == 0
    assert pieces[-1][1] == row.num_chunks
    assert all(stop == first for (_, stop), (first, _) in pairwise(pieces))
    for first, stop in pieces:
        assert 0 < (stop - first) * row.slice_bytes <= PIECE_BYTES
    for first, stop in pieces[:-1]:
        assert (stop - first + 1) * row.slice_bytes > PIECE_BYTES


@given(rows_and_ranges())
def test_spans_partition_a_range_at_piece_boundaries(case: tuple[LayerRow, int, int]) -> None:
    row, first, stop = case
    spans = list(row.spans(first, stop))
    assert [chunk for span in spans for chunk in range(span.first, span.stop)] == list(range(first, stop))
    boundaries = {row.piece_range(piece): piece for piece in range(row.num_pieces)}
    for span in spans:
        assert span.piece == boundaries.get((span.first, span.stop))
    for span, after in pairwise(spans):
        assert row.num_pieces == 0 or any(begin == after.first for begin, _ in boundaries), (span, after)
    if first == 0 and stop == row.num_chunks and row.num_pieces:
        assert [span.piece for span in spans] == list(range(row.num_pieces))


@given(rows())
def test_digests_fill_the_row_without_overlap(row: LayerRow) -> None:
    whole = [row.digest_range(span) for span in row.spans(0, row.num_chunks)]
    single = [
        row.digest_range(span._replace(piece=None)) for i in range(row.num_chunks) for span in row.spans(i, i + 1)
    ]
    ranges = sorted(set(whole) | set(single))
    assert ranges[0][0] == 0
    assert ranges[-1][1] == row.row_bytes
    assert all(stop == begin for (_, stop), (begin, _) in pairwise(ranges))
    assert all(stop - begin == DIGEST_BYTES for begin, stop in ranges)


@given(rows(), st.integers(-2, 102), st.integers(-2, 102))
def test_ranges_outside_a_segment_are_refused(row: LayerRow, first: int, stop: int) -> None:
    if 0 <= first < stop <= row.num_chunks:
        assert sum(span.stop - span.first for span in row.spans(first, stop)) == stop - first
    else:
        with pytest.raises(LayoutError):
            list(row.spans(first, stop))


@given(st.integers(1, 300), st.lists(slice_sizes, min_size=1, max_size=6), st.integers(1, 20_000))
def test_a_segment_has_no_overlap_and_aligned_slices(num_chunks: int, sizes: list[int], header_bytes: int) -> None:
    geometry = SegmentGeometry(num_chunks, tuple(sizes), header_bytes)
    at = header_bytes
    for position, size in enumerate(sizes):
        padding = geometry.padding_before_row(position)
        assert 0 <= padding < ALIGNMENT_BYTES
        assert geometry.row_offset(position) == at + padding
        start = geometry.row_offset(position) + geometry.rows[position].row_bytes
        assert geometry.slice_offset(position, 0) == start
        assert start % ALIGNMENT_BYTES == 0
        assert geometry.slice_offset(position, num_chunks) == start + num_chunks * size
        at = start + geometry.layer_bytes(position)
    assert geometry.footer_offset == at


@given(st.integers(0, 1 << 60), st.integers(1, 1 << 20))
def test_align_up_is_the_next_multiple(value: int, alignment: int) -> None:
    aligned = align_up(value, alignment)
    assert aligned % alignment == 0
    assert value <= aligned < value + alignment


@st.composite
def part_shapes(draw: st.DrawFn) -> PartShape:
    layers = sorted(draw(st.sets(st.integers(0, 20), min_size=1, max_size=8)))
    sizes = draw(st.lists(st.integers(1, 20_000), min_size=len(layers), max_size=len(layers)))
    return PartShape(tuple(layers), tuple(sizes), draw(st.integers(1, 50)))


@given(st.lists(part_shapes(), min_size=1, max_size=6), st.integers(1, 25))
def test_a_delivery_lies_in_order_aligned_and_without_overlap(parts: list[PartShape], per_unit: int) -> None:
    geometry = DeliveryGeometry(tuple(parts), per_unit)
    places = [(part, layer) for layer in geometry.order for part in geometry.parts_of(layer)]
    at = 0
    for part, layer in places:
        offset = geometry.offset(part, layer)
        assert offset % ALIGNMENT_BYTES == 0
        assert at <= offset < at + ALIGNMENT_BYTES
        assert parts[part].layers[geometry.position(part, layer)] == layer
        size = parts[part].slice_bytes[geometry.position(part, layer)] * parts[part].num_chunks
        assert geometry.layer_bytes(part, layer) == size
        at = offset + size
    assert at <= geometry.total_bytes < at + ALIGNMENT_BYTES
    # Every layer of every part has its place, once, and layers ascend whatever part they are of.
    assert sorted(places) == sorted((i, layer) for i, part in enumerate(parts) for layer in part.layers)
    assert list(geometry.order) == sorted({layer for part in parts for layer in part.layers})


@given(st.lists(part_shapes(), min_size=1, max_size=6), st.integers(1, 25))
def test_units_cover_a_delivery(parts: list[PartShape], per_unit: int) -> None:
    geometry = DeliveryGeometry(tuple(parts), per_unit)
    assert [layer for unit in geometry.units for layer in unit] == list(geometry.order)
    assert all(len(unit) == per_unit for unit in geometry.units[:-1])
    assert 0 < len(geometry.units[-1]) <= per_unit
    payload = sum(sum(part.slice_bytes) * part.num_chunks for part in parts)
    assert sum(geometry.unit_bytes) == payload
    assert geometry.payload_bytes == payload


def test_layers_that_a_delivery_does_not_have() -> None:
    geometry = DeliveryGeometry((PartShape((0, 2), (8, 8), 1), PartShape((2,), (8,), 1)), 1)
    assert [list(geometry.parts_of(layer)) for layer in range(4)] == [[0], [], [0, 1], []]
    for part, layer in [(0, 1), (1, 0), (2, 0)]:
        with pytest.raises(KeyError):
            geometry.offset(part, layer)


@pytest.mark.parametrize(
    "fields",
    [
        {"layers": (), "slice_bytes": ()},
        {"layers": (0,)},
        {"layers": (1, 0)},
        {"layers": (0, 0)},
        {"slice_bytes": (8, 0)},
        {"slice_bytes": (8, -8)},
        {"num_chunks": 0},
        {"num_chunks": -1},
    ],
    ids=repr,
)
def test_parts_that_would_overlap_or_hold_nothing(fields: dict[str, Any]) -> None:
    with pytest.raises(LayoutError):
        PartShape(**{"layers": (0, 1), "slice_bytes": (8, 8), "num_chunks": 4, **fields})


def test_units_hold_at_least_one_layer() -> None:
    with pytest.raises(LayoutError):
        DeliveryGeometry((PartShape((0,), (8,), 1),), 0)
