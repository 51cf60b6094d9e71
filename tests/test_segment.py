"""Segments: written layer by layer, read by any range of any layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.errors import IntegrityError, LayoutError
from objectcache.layout import ALIGNMENT_BYTES, PIECE_BYTES
from objectcache.segment import CommittedLayer, SegmentHeader, SegmentReader, SegmentWriter
from tests.segments import BytesSource, encode, make_header, random_layers, read, read_all


@st.composite
def segments(
    draw: st.DrawFn, slice_bytes: st.SearchStrategy[int], max_chunks: int
) -> tuple[SegmentHeader, list[bytes]]:
    layers = sorted(draw(st.sets(st.integers(0, 4095), min_size=1, max_size=4)))
    header = make_header(
        num_chunks=draw(st.integers(1, max_chunks)),
        layers=layers,
        slice_bytes=draw(st.lists(slice_bytes, min_size=len(layers), max_size=len(layers))),
        group=draw(st.integers(0, 63)),
        shard=draw(st.integers(0, 4095)),
        depth=draw(st.sampled_from([0, 1, 1000, (1 << 32) - 1])),
    )
    return header, random_layers(header, seed=draw(st.integers(0, 1 << 32)))


def check_round_trip(segment: tuple[SegmentHeader, list[bytes]], data: st.DataObject) -> None:
    """Whole layers and a drawn range of each, by the segment's own header and footer and by the commit's digests."""
    header, layers = segment
    stored, digests = encode(header, layers)
    assert len(stored) == header.total_bytes
    source = BytesSource(stored)
    opened = SegmentReader.open(source, header.name)
    assert opened.header == header
    assert opened.row_digests == digests
    for reader in (opened, SegmentReader(source, header, digests)):
        assert read_all(reader) == layers
        for position, size in enumerate(header.slice_bytes):
            first = data.draw(st.integers(0, header.num_chunks - 1))
            stop = data.draw(st.integers(first + 1, header.num_chunks))
            assert read(reader, position, first, stop) == layers[position][first * size : stop * size]


@given(segments(st.integers(1, 5000), 40), st.data())
def test_any_range_of_any_layer_round_trips(segment: tuple[SegmentHeader, list[bytes]], data: st.DataObject) -> None:
    check_round_trip(segment, data)


large = st.sampled_from([PIECE_BYTES // 5, PIECE_BYTES // 2, PIECE_BYTES // 2 + 1, PIECE_BYTES, PIECE_BYTES + 1])


@settings(max_examples=10)
@given(segments(large, 7), st.data())
def test_ranges_of_large_slices_round_trip(segment: tuple[SegmentHeader, list[bytes]], data: st.DataObject) -> None:
    check_round_trip(segment, data)


def test_every_range_across_pieces_round_trips() -> None:
    """Three pieces of 5, 5 and 2 slices: every range, so every mix of whole pieces and single slices."""
    header = make_header(num_chunks=12, layers=[7], slice_bytes=[PIECE_BYTES // 5])
    (layer,) = random_layers(header)
    stored, digests = encode(header, [layer])
    assert header.geometry.rows[0].num_pieces == 3
    reader = SegmentReader(BytesSource(stored), header, digests)
    size = header.slice_bytes[0]
    for first in range(12):
        for stop in range(first + 1, 13):
            assert read(reader, 0, first, stop) == layer[first * size : stop * size]


def test_a_prefix_of_a_layer_is_one_range_with_its_digests() -> None:
    header = make_header(num_chunks=5, layers=[0, 9], slice_bytes=[300, 5000])
    layers = random_layers(header)
    stored, _ = encode(header, layers)
    geometry = header.geometry
    for position, layer in enumerate(layers):
        start = geometry.row_offset(position) + geometry.rows[position].row_bytes
        assert start % ALIGNMENT_BYTES == 0
        assert stored[start : start + len(layer)] == layer


def test_a_committed_layer_is_read_without_the_header() -> None:
    header = make_header(num_chunks=4, layers=[3, 8], slice_bytes=[64, 100])
    layers = random_layers(header)
    stored, digests = encode(header, layers)
    source = BytesSource(stored)
    layer = CommittedLayer(header.geometry, 1, header.binding(1), header.leaf, digests[1])
    out = bytearray(200)
    for row in (None, layer.read_row(source)):
        layer.read_chunks(source, 1, 3, header.keys[1:3], memoryview(out), row)
        assert out == layers[1][100:300]
    with pytest.raises(IntegrityError):
        layer.read_chunks(source, 1, 3, header.keys[2:4], memoryview(out))
    for keys in (header.keys, header.keys[1:2]):
        with pytest.raises(LayoutError):
            layer.read_chunks(source, 1, 3, keys, memoryview(out))


# -- the writer ---------------------------------------------------------------------------------------


def test_any_contiguous_buffer_can_be_written() -> None:
    header = make_header(num_chunks=2, layers=[0], slice_bytes=[24])
    array = np.arange(12, dtype=np.float32)
    plain = array.tobytes()
    stored, _ = encode(header, [plain])
    for same in (bytearray(plain), memoryview(plain), array.data, array.reshape(2, 2, 3).data):
        assert encode(header, [same])[0] == stored


def test_the_writer_passes_data_on_without_a_copy() -> None:
    header = make_header(num_chunks=2, layers=[0], slice_bytes=[1000])
    data = bytearray(random_layers(header)[0])
    received: list[memoryview] = []

    def keep_views(part: bytes | bytearray | memoryview) -> None:
        if isinstance(part, memoryview):
            received.append(part)

    SegmentWriter(header, keep_views).write_layer(data)
    assert [view.obj for view in received] == [data]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda writer: writer.write_layer(bytes(79)),
        lambda writer: writer.write_layer(bytes(81)),
        lambda writer: writer.write_layer(b""),
        lambda writer: writer.finish(),
        lambda writer: [writer.write_layer(bytes(80)), writer.finish()],
        lambda writer: [writer.write_layer(bytes(80)) for _ in range(3)],
    ],
    ids=["short layer", "long layer", "no layer", "no layers", "a layer is missing", "a layer too many"],
)
def test_a_writer_used_wrongly_says_so(misuse: Callable[[SegmentWriter], object]) -> None:
    header = make_header(num_chunks=2, layers=[0, 1], slice_bytes=[40, 40])
    with pytest.raises(LayoutError, match=header.name):
        misuse(SegmentWriter(header, lambda data: None))


def test_a_layer_refused_is_not_half_written() -> None:
    header = make_header(num_chunks=2, layers=[0, 1], slice_bytes=[40, 40])
    layers = random_layers(header)
    out = bytearray()
    writer = SegmentWriter(header, out.extend)
    for layer in layers:
        with pytest.raises(LayoutError):
            writer.write_layer(layer[:-1])
        writer.write_layer(layer)
    writer.finish()
    assert bytes(out) == encode(header, layers)[0]


# -- the reader ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "stop", "length"), [(0, 2, 79), (0, 2, 81), (-1, 1, 80), (2, 4, 80), (1, 1, 0)])
def test_ranges_that_cannot_be_read(first: int, stop: int, length: int) -> None:
    header = make_header(num_chunks=3, layers=[0], slice_bytes=[40])
    stored, digests = encode(header, random_layers(header))
    with pytest.raises(LayoutError):
        SegmentReader(BytesSource(stored), header, digests).read_chunks(0, first, stop, memoryview(bytearray(length)))


def test_layers_are_found_by_their_number() -> None:
    header = make_header(layers=[2, 5, 4095], slice_bytes=[1, 2, 3])
    assert [header.position_of(layer) for layer in header.layers] == [0, 1, 2]
    for layer in (-1, 0, 3, 4096):
        with pytest.raises(LayoutError, match=header.name):
            header.position_of(layer)


def test_geometry_is_computed_once_and_not_carried_into_copies() -> None:
    header = make_header(num_chunks=3)
    assert header.geometry is header.geometry
    assert header.encoded is header.encoded
    longer = replace(header, name=header.name * 9)
    assert longer.geometry.header_bytes == len(longer.encoded) > len(header.encoded)
