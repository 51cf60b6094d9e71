"""Damage and mix-ups: recognised whenever what they touch is read, and never wrong data.

Padding (the zero bytes before a layer's digest row) is excluded on purpose: no reader ever looks at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from struct import pack

import pytest

from objectcache.errors import IntegrityError
from objectcache.integrity import seal
from objectcache.segment import SegmentHeader, SegmentReader, encode_footer
from tests.segments import BytesSource, encode, make_header, random_chain, random_layers, read, read_all

# The second layer's slices are equal in size to the first one's, so that the two can be swapped.
HEADER = make_header(num_chunks=3, layers=(0, 4, 5), slice_bytes=(40, 40, 7))
LAYERS = random_layers(HEADER)
STORED, DIGESTS = encode(HEADER, LAYERS)
FOOTER = HEADER.geometry.footer_offset


def padding(header: SegmentHeader) -> list[range]:
    geometry = header.geometry
    starts = [
        (geometry.row_offset(position), geometry.padding_before_row(position)) for position in range(len(header.layers))
    ]
    return [range(row - length, row) for row, length in starts]


def flipped(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def swapped(data: bytes, a: int, b: int, length: int) -> bytes:
    out = bytearray(data)
    out[a : a + length], out[b : b + length] = data[b : b + length], data[a : a + length]
    return bytes(out)


def row_and_slices(position: int) -> tuple[int, int]:
    """Byte range of a layer's digest row and slices."""
    geometry = HEADER.geometry
    return geometry.row_offset(position), geometry.slice_offset(position, HEADER.num_chunks)


def refused(data: bytes, name: str = HEADER.name) -> None:
    """Reading everything in `data` raises IntegrityError somewhere."""
    with pytest.raises(IntegrityError):
        read_all(SegmentReader.open(BytesSource(data), name))


def refused_layers(data: bytes, header: SegmentHeader = HEADER, digests: tuple[bytes, ...] = DIGESTS) -> set[int]:
    """Positions that a reader who knows header and digests from the commit record refuses. What it reads is right."""
    reader = SegmentReader(BytesSource(data), header, digests)
    found = set()
    for position, layer in enumerate(LAYERS):
        try:
            assert read(reader, position) == layer
        except IntegrityError:
            found.add(position)
    return found


def test_the_undamaged_segment_reads_right() -> None:
    assert read_all(SegmentReader.open(BytesSource(STORED), HEADER.name)) == LAYERS
    assert refused_layers(STORED) == set()


def test_any_flipped_bit_outside_padding_is_recognised() -> None:
    skipped = {byte for part in padding(HEADER) for byte in part}
    bytes_checked = [byte for byte in range(len(STORED)) if byte not in skipped]
    assert len(bytes_checked) == len(HEADER.encoded) + 3 * 4 * 16 + 3 * (40 + 40 + 7) + len(STORED) - FOOTER
    for byte in bytes_checked:
        for bit in range(8 * byte, 8 * byte + 8):
            refused(flipped(STORED, bit))


def test_a_flipped_bit_in_padding_does_no_harm() -> None:
    for part in padding(HEADER):
        for byte in (part.start, part.stop - 1):
            damaged = BytesSource(flipped(STORED, 8 * byte))
            assert read_all(SegmentReader.open(damaged, HEADER.name)) == LAYERS


def ranges() -> Iterator[tuple[int, int]]:
    return ((first, stop) for first in range(3) for stop in range(first + 1, 4))


def test_a_flipped_bit_is_recognised_by_exactly_the_ranges_that_touch_it() -> None:
    for position, size in enumerate(HEADER.slice_bytes):
        for chunk in range(3):
            start = HEADER.geometry.slice_offset(position, chunk)
            for bit in (8 * start, 8 * (start + size) - 1):
                reader = SegmentReader(BytesSource(flipped(STORED, bit)), HEADER, DIGESTS)
                for first, stop in ranges():
                    if first <= chunk < stop:
                        with pytest.raises(IntegrityError):
                            read(reader, position, first, stop)
                    else:
                        assert read(reader, position, first, stop) == LAYERS[position][first * size : stop * size]
                others = set(range(3)) - {position}
                assert [read(reader, other) for other in others] == [LAYERS[other] for other in others]


def test_a_segment_cut_anywhere_does_not_open() -> None:
    for length in range(len(STORED)):
        with pytest.raises(IntegrityError):
            SegmentReader.open(BytesSource(STORED[:length]), HEADER.name)


def test_a_segment_cut_anywhere_gives_layers_that_are_whole_and_no_others() -> None:
    ends = [row_and_slices(position)[1] for position in range(3)]
    for length in range(len(STORED)):
        cut = {position for position, end in enumerate(ends) if length < end}
        assert refused_layers(STORED[:length]) == cut


def test_a_segment_cut_and_filled_up_is_recognised() -> None:
    """What a crashed file system leaves: the right length, the end zeroes."""
    random = Random(1)
    cuts = [random.randrange(len(STORED)) for _ in range(300)]
    for length in cuts:
        refused(STORED[:length] + bytes(len(STORED) - length))
    refused(bytes(len(STORED)))


@pytest.mark.parametrize("with_rows", [False, True])
def test_layers_swapped(with_rows: bool) -> None:
    (row_a, end_a), (row_b, _) = row_and_slices(0), row_and_slices(1)
    if not with_rows:
        row_a, row_b = (HEADER.geometry.slice_offset(position, 0) for position in (0, 1))
    data = swapped(STORED, row_a, row_b, end_a - row_a)
    assert refused_layers(data) == {0, 1}
    refused(data)


def test_digest_rows_swapped() -> None:
    (row_a, _), (row_b, _) = row_and_slices(0), row_and_slices(1)
    assert refused_layers(swapped(STORED, row_a, row_b, HEADER.geometry.rows[0].row_bytes)) == {0, 1}


def test_layers_and_their_row_digests_swapped_do_not_verify_either() -> None:
    """Digests are bound to their layer: a self-consistent wrong object is refused."""
    (row_a, end_a), (row_b, _) = row_and_slices(0), row_and_slices(1)
    data = swapped(STORED, row_a, row_b, end_a - row_a)
    digests = (DIGESTS[1], DIGESTS[0], DIGESTS[2])
    assert refused_layers(data, digests=digests) == {0, 1}
    assert refused_layers(STORED, digests=digests) == {0, 1}
    refused(data[:FOOTER] + encode_footer(HEADER, digests))


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 2), (0, 2)])
def test_slices_swapped(a: int, b: int) -> None:
    for position, size in enumerate(HEADER.slice_bytes):
        at = [HEADER.geometry.slice_offset(position, chunk) for chunk in (a, b)]
        reader = SegmentReader(BytesSource(swapped(STORED, at[0], at[1], size)), HEADER, DIGESTS)
        for first, stop in ranges():
            if first <= a < stop or first <= b < stop:
                with pytest.raises(IntegrityError):
                    read(reader, position, first, stop)
            else:
                assert read(reader, position, first, stop) == LAYERS[position][first * size : stop * size]


def test_slices_swapped_together_with_their_digests() -> None:
    for position, size in enumerate(HEADER.slice_bytes):
        at = [HEADER.geometry.slice_offset(position, chunk) for chunk in (0, 1)]
        row = HEADER.geometry.row_offset(position) + HEADER.geometry.rows[position].num_pieces * 16
        data = swapped(swapped(STORED, at[0], at[1], size), row, row + 16, 16)
        assert refused_layers(data) == {position}


# -- two segments -------------------------------------------------------------------------------------

OTHERS = {
    "the same prefix, computed again": (HEADER, random_layers(HEADER, seed=1)),
    "another prefix": (make_header(layers=(0, 4, 5), slice_bytes=(40, 40, 7), keys=random_chain(2, 3)), LAYERS),
    "another shard": (make_header(layers=(0, 4, 5), slice_bytes=(40, 40, 7), shard=1), LAYERS),
    "another group": (make_header(layers=(0, 4, 5), slice_bytes=(40, 40, 7), group=1), LAYERS),
    "other layers": (make_header(layers=(1, 6, 7), slice_bytes=(40, 40, 7)), LAYERS),
}


@pytest.mark.parametrize(("other", "layers"), OTHERS.values(), ids=OTHERS.keys())
def test_bodies_of_two_segments_swapped(other: SegmentHeader, layers: list[bytes]) -> None:
    stored, digests = encode(other, layers)
    assert len(stored) == len(STORED)
    body = slice(len(HEADER.encoded), FOOTER)
    for head, middle in ((STORED, stored), (stored, STORED)):
        refused(head[: body.start] + middle[body] + head[FOOTER:])
    assert refused_layers(stored) == {0, 1, 2}
    # Not even with the digests that go with the body.
    if other != HEADER:
        assert refused_layers(stored, digests=digests) == {0, 1, 2}


@pytest.mark.parametrize(("other", "layers"), OTHERS.values(), ids=OTHERS.keys())
def test_the_footer_of_another_segment(other: SegmentHeader, layers: list[bytes]) -> None:
    stored, _ = encode(other, layers)
    refused(STORED[:FOOTER] + stored[FOOTER:])
    refused(stored[:FOOTER] + STORED[FOOTER:])


@pytest.mark.parametrize(
    ("magic", "total", "layers"), [(b"OCKVEND2", 0, 3), (b"OCKVEND1", 1, 3), (b"OCKVEND1", -1, 3), (b"OCKVEND1", 0, 2)]
)
def test_a_footer_of_another_shape(magic: bytes, total: int, layers: int) -> None:
    """With a digest of its own that is right."""
    head = pack("<8sQI", b"OCKVEND1", len(STORED), 3)
    rest = STORED[FOOTER + len(head) : -16]
    assert STORED[FOOTER:] == seal(head + rest)
    refused(STORED[:FOOTER] + seal(pack("<8sQI", magic, len(STORED) + total, layers) + rest))


def test_an_object_under_another_name() -> None:
    other, digests = encode(make_header(name="segments/w/1", layers=(0, 4, 5), slice_bytes=(40, 40, 7)), LAYERS)
    assert digests == DIGESTS
    refused(STORED[:FOOTER] + other[FOOTER:])
    refused(other)
    refused(STORED, name="segments/w/1")
    with pytest.raises(IntegrityError, match=r"object segments/w/1 holds segment segments/w/0"):
        SegmentReader.open(BytesSource(STORED), "segments/w/1")


@pytest.mark.parametrize("count", [0, 2, 4])
def test_row_digests_that_do_not_fit_the_header(count: int) -> None:
    digests = (*DIGESTS, DIGESTS[0])[:count]
    with pytest.raises(IntegrityError):
        SegmentReader(BytesSource(STORED), HEADER, digests)
    refused(STORED[:FOOTER] + encode_footer(HEADER, digests))


def test_bytes_after_the_end_are_never_read() -> None:
    assert read_all(SegmentReader.open(BytesSource(STORED + b"more"), HEADER.name)) == LAYERS
