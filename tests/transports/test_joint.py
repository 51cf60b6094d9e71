"""One delivery received by several processes, without any I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import DeliveryError, IntegrityError
from objectcache.frames import Frame, FrameType
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.transports.joint import ArrivalBoard, JointReception

CHUNKS, STREAMS = 6, 4
PARTS = (PartShape((0, 1, 2), (100, 100, 40), CHUNKS), PartShape((1, 3), (8, 8), CHUNKS))
GEOMETRY = DeliveryGeometry(PARTS, 2)


def data(part: int, layer: int, first: int, count: int = 1) -> Frame:
    size = GEOMETRY.layer_bytes(part, layer) // CHUNKS
    return Frame(
        FrameType.DATA,
        delivery=1,
        epoch=0,
        part=part,
        layer=layer,
        first_chunk=first,
        num_chunks=count,
        data_bytes=size * count,
        extra=count - 1,
    )


def members(count: int, geometry: DeliveryGeometry = GEOMETRY, from_layer: int = 0) -> list[JointReception]:
    memory = memoryview(bytearray(ArrivalBoard.size_bytes(geometry, count)))
    return [
        JointReception(
            geometry,
            0,
            range(index, STREAMS, count),
            ArrivalBoard(geometry, memory, count, from_layer),
            index,
            from_layer,
        )
        for index in range(count)
    ]


def receive(member: JointReception, stream: int, frame: Frame, *, right: bool = True) -> tuple[int, ...]:
    assert member.begin(stream, frame) is not None
    assert member.span_complete(stream, frame)
    return member.finish(stream, frame, frame.data_bytes if right else 0)


def end(member: JointReception, stream: int) -> None:
    member.end(stream, Frame(FrameType.END, 1, 0))


FRAMES = [
    data(part, layer, chunk) for layer in GEOMETRY.order for part in GEOMETRY.parts_of(layer) for chunk in range(6)
]


@given(st.permutations(FRAMES), st.lists(st.integers(0, STREAMS - 1), min_size=len(FRAMES), max_size=len(FRAMES)))
def test_each_unit_is_told_once_and_by_whoever_has_the_last_of_it(frames: list[Frame], streams: list[int]) -> None:
    both = members(2)
    missing = {unit: sum(frame.layer in layers for frame in frames) for unit, layers in enumerate(GEOMETRY.units)}
    for frame, stream in zip(frames, streams, strict=True):
        unit = GEOMETRY.unit_of[frame.layer]
        missing[unit] -= 1
        assert receive(both[stream % 2], stream, frame) == (() if missing[unit] else (unit,))
    assert all(member.complete and member.fenced for member in both)
    for stream in range(STREAMS):
        end(both[stream % 2], stream)
    assert all(set(member.missed()) <= set(missing) for member in both)


def test_a_chunk_that_comes_to_two_of_them_is_not_written_twice() -> None:
    first, second = members(2)
    receive(first, 0, data(0, 0, 2, 3))
    with pytest.raises(DeliveryError, match="sent twice"):
        second.begin(1, data(0, 0, 4, 2))


def test_whole_only_once_the_last_is_verified() -> None:
    first, second = members(2)
    for frame in FRAMES[:-1]:
        receive(first, 0, frame)
    assert second.begin(1, FRAMES[-1]) is not None
    assert not first.complete
    assert second.finish(1, FRAMES[-1], FRAMES[-1].data_bytes) == (1,)
    assert first.complete


def test_what_did_not_verify_never_counts() -> None:
    first, second = members(2)
    for frame in FRAMES[:-1]:
        receive(first, 0, frame)
    assert receive(second, 1, FRAMES[-1], right=False) == ()
    second.fail(IntegrityError("wrong"))
    assert not first.complete
    assert second.fenced


def test_one_whose_streams_have_ended_is_fenced_and_has_not_failed() -> None:
    first, second = members(2)
    end(first, 0)
    assert not first.fenced
    end(first, 2)
    assert first.fenced
    assert first.error is None
    assert not second.fenced


def test_at_the_end_units_that_others_made_whole_are_told() -> None:
    first, second = members(2)
    for frame in FRAMES:
        receive(first, 0, frame)
    end(second, 1)
    assert second.missed() == [0, 1]
    assert second.missed() == []


def test_what_is_held_or_below_the_first_layer_is_not_waited_for() -> None:
    geometry = DeliveryGeometry((PartShape((0, 1), (10, 10), 4, held=((1, 2),)),), 1)
    (only,) = members(1, geometry)
    frame = Frame(FrameType.DATA, 1, 0, layer=0, first_chunk=2, num_chunks=2, data_bytes=20, extra=1)
    assert receive(only, 0, frame) == (0,)
    (later,) = members(1, geometry, from_layer=1)
    frame = Frame(FrameType.DATA, 1, 0, layer=1, first_chunk=0, num_chunks=4, data_bytes=40, extra=3)
    assert receive(later, 0, frame) == (1,)
    assert later.complete
