"""What of a delivery is told of by itself: all that is sent, once, in few parts, the last ones small."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.delivery import Reception
from objectcache.frames import Frame, FrameType
from objectcache.layout import (
    CUT_BYTES,
    MAX_SECTIONS,
    PIECE_BYTES,
    SECTION_BYTES,
    DeliveryGeometry,
    PartShape,
    piece_chunks,
)
from objectcache.transports.joint import ArrivalBoard, JointReception

MIB = 1 << 20


@st.composite
def geometries(draw: st.DrawFn) -> DeliveryGeometry:
    """Parts with slices of up to 3 MiB: nothing of that size is made."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        layers = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True).map(sorted))
        sizes = draw(st.lists(st.integers(1, 3 * MIB), min_size=len(layers), max_size=len(layers)))
        chunks = draw(st.integers(1, 40))
        held = draw(st.sampled_from([(), ((layers[-1] + 1, chunks),), ((1, draw(st.integers(1, chunks))),)]))
        parts.append(PartShape(tuple(layers), tuple(sizes), chunks, held))
    return DeliveryGeometry(tuple(parts), draw(st.integers(1, 3)))


@given(geometries())
def test_all_that_is_sent_is_in_one_section(geometry: DeliveryGeometry) -> None:
    sections = geometry.sections
    seen = {
        (part, layer): [False] * shape.num_chunks for part, shape in enumerate(geometry.parts) for layer in shape.layers
    }
    for number, section in enumerate(sections.all):
        assert number in sections.of_unit[section.unit]
        for part, layer, first, stop in section.chunks:
            assert layer in geometry.units[section.unit]
            assert first < stop
            assert first >= geometry.parts[part].held_chunks(layer)
            for chunk in range(first, stop):
                assert not seen[part, layer][chunk]
                seen[part, layer][chunk] = True
                assert list(sections.touched(part, layer, chunk, 1)) == [(number, 1)]
    for (part, layer), chunks in seen.items():
        held = geometry.parts[part].held_chunks(layer)
        assert not any(chunks[:held])
        assert all(chunks[held:])
    for unit, numbers in enumerate(sections.of_unit):
        layers = geometry.units[unit]
        parts = max(1, sum(len(geometry.parts_of(layer)) for layer in layers))
        assert len(numbers) <= MAX_SECTIONS * parts
        if len(layers) > 1 or geometry.unit_wanted_bytes[unit] < CUT_BYTES:
            assert len(numbers) == bool(geometry.unit_wanted_bytes[unit])


@given(geometries(), st.randoms())
def test_a_run_of_chunks_is_counted_once(geometry: DeliveryGeometry, random: Random) -> None:
    """Whatever bounds it crosses."""
    sections = geometry.sections
    for part, shape in enumerate(geometry.parts):
        for layer in shape.layers:
            first = shape.held_chunks(layer)
            if first == shape.num_chunks:
                continue
            runs = {
                number: chunks
                for number, section in enumerate(sections.all)
                for chunks in section.chunks
                if (chunks.part, chunks.layer) == (part, layer)
            }
            for begin, stop in [
                (first, shape.num_chunks),
                sorted(random.sample(range(first, shape.num_chunks + 1), 2)),
            ]:
                expected = [
                    (number, overlap)
                    for number, run in runs.items()
                    if (overlap := min(stop, run.stop) - max(begin, run.first)) > 0
                ]
                assert list(sections.touched(part, layer, begin, stop - begin)) == expected


@given(geometries())
def test_each_section_is_half_of_what_is_left(geometry: DeliveryGeometry) -> None:
    """Up to a piece, so that the last is small."""
    sections = geometry.sections
    for unit, numbers in enumerate(sections.of_unit):
        if len(geometry.units[unit]) > 1 or geometry.unit_wanted_bytes[unit] < CUT_BYTES:
            continue
        (layer,) = geometry.units[unit]
        for part in geometry.parts_of(layer):
            shape = geometry.parts[part]
            size = shape.slice_bytes[geometry.position(part, layer)]
            piece = piece_chunks(size)
            first, left = shape.held_chunks(layer), shape.num_chunks - shape.held_chunks(layer)
            cuts = [chunks for number in numbers for chunks in sections.all[number].chunks if chunks.part == part]
            assert len(cuts) <= MAX_SECTIONS
            for each in cuts[:-1]:
                assert (each.stop - first) % piece == 0
                assert left <= 2 * each.num < left + 2 * piece
                left -= each.num
                assert left * size >= SECTION_BYTES
            assert [each.num for each in cuts] == sorted((each.num for each in cuts), reverse=True)
            if len(cuts) < MAX_SECTIONS:
                assert left * size < 2 * SECTION_BYTES + 2 * max(size, PIECE_BYTES)


@pytest.mark.parametrize(
    ("chunks", "mib"),
    [
        (224, [14]),
        (255, [15.9375]),
        (256, [8, 4, 4]),
        (896, [28, 14, 7, 7]),
        (3584, [112, 56, 28, 14, 7, 7]),
        (16384, [512, 256, 128, 64, 32, 32]),
    ],
)
def test_how_a_layer_of_64_kib_slices_is_cut(chunks: int, mib: list[float]) -> None:
    geometry = DeliveryGeometry((PartShape((0, 1), (64 << 10,) * 2, chunks),), 1)
    assert list(map(len, geometry.sections.of_unit)) == [len(mib)] * 2
    sizes = [chunks.num / 16 for section in geometry.sections.all for chunks in section.chunks]
    assert sizes == mib * 2, "pieces of a MiB are in one of them"
    assert len(DeliveryGeometry(geometry.parts, 2).sections.all) == 1, "units of several layers are not cut"


def test_what_is_held_is_in_no_section_and_is_not_counted_for_their_sizes() -> None:
    geometry = DeliveryGeometry((PartShape((0, 1), (64 << 10,) * 2, 3584, ((1, 3584 - 512),)),), 1)
    of_first, of_second = geometry.sections.of_unit
    assert [geometry.sections.all[number].chunks[0].num for number in of_first] == [256, 128, 64, 64]
    assert len(of_second) == MAX_SECTIONS


def receptions(geometry: DeliveryGeometry, members: int) -> list[Reception]:
    """One, or those of several processes."""
    if members == 1:
        return [Reception(geometry, epoch=0, streams=1)]
    memory = memoryview(bytearray(ArrivalBoard.size_bytes(geometry, members)))
    return [
        JointReception(geometry, 0, [index], ArrivalBoard(geometry, memory, members), index) for index in range(members)
    ]


@given(geometries().filter(lambda geometry: geometry.sections.all), st.integers(1, 3), st.randoms())
def test_each_is_told_once_when_the_last_of_it_is_verified(
    geometry: DeliveryGeometry, members: int, random: Random
) -> None:
    frames = []
    for part, shape in enumerate(geometry.parts):
        for layer, size in zip(shape.layers, shape.slice_bytes, strict=True):
            at = shape.held_chunks(layer)
            while at < shape.num_chunks:
                count = min(random.randint(1, 5), shape.num_chunks - at)
                frames.append(
                    Frame(
                        FrameType.DATA,
                        1,
                        0,
                        part=part,
                        layer=layer,
                        first_chunk=at,
                        num_chunks=count,
                        data_bytes=size * count,
                        extra=count - 1,
                    )
                )
                at += count
    random.shuffle(frames)
    all_of_them = receptions(geometry, members)
    left = geometry.sections.wanted_chunks()
    assert left is not geometry.sections.wanted_chunks(), "whoever counts it down has it alone"
    told: list[int] = []
    for frame in frames:
        reception = random.choice(all_of_them)
        assert not reception.complete
        assert reception.begin(0, frame) is not None
        assert reception.span_complete(0, frame)
        for number, count in geometry.sections.touched(frame.part, frame.layer, frame.first_chunk, frame.num_chunks):
            left[number] -= count
        complete = reception.finish(0, frame, frame.data_bytes)
        told += complete
        assert all(not left[number] for number in complete)
        assert sorted(told) == [number for number, missing in enumerate(left) if not missing]
    assert all(reception.complete for reception in all_of_them)
