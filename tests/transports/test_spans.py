"""Spans that take several frames: their parts arrive in order, on one stream, and belong to one span."""

from __future__ import annotations

import pytest

from objectcache.delivery import Reception
from objectcache.errors import DeliveryError
from objectcache.frames import PIECE, Frame, FrameType
from objectcache.layout import DeliveryGeometry, PartShape

SLICE_BYTES = 1000
GEOMETRY = DeliveryGeometry((PartShape((0, 1), (SLICE_BYTES, SLICE_BYTES), 4),), 1)


def part_of_span(layer: int, first: int, offset: int, count: int = 600) -> Frame:
    """`count` bytes of a span of one chunk."""
    return Frame(
        FrameType.DATA,
        1,
        0,
        flags=PIECE,
        layer=layer,
        first_chunk=first,
        num_chunks=1,
        data_bytes=count,
        span_offset=offset,
    )


def receive(reception: Reception, stream: int, frame: Frame) -> tuple[int, ...]:
    """The sections that are complete by it."""
    assert reception.begin(stream, frame) is not None
    whole = reception.span_complete(stream, frame)
    return reception.finish(stream, frame, SLICE_BYTES if whole else 0)


def test_streams_have_spans_of_their_own() -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=2)
    for first in (0, 2):
        receive(reception, 0, part_of_span(0, first, 0))
        receive(reception, 1, part_of_span(0, first + 1, 0))
        receive(reception, 1, part_of_span(0, first + 1, 600, 400))
        complete = receive(reception, 0, part_of_span(0, first, 600, 400))
    assert complete == (0,)


@pytest.mark.parametrize(
    "intruder",
    [part_of_span(0, 1, 600, 400), part_of_span(1, 0, 600, 400), part_of_span(0, 1, 0), part_of_span(0, 0, 0)],
    ids=["another chunk", "another layer", "another span's beginning", "its own beginning"],
)
def test_a_span_is_not_continued_by_another(intruder: Frame) -> None:
    """It would count as received twice, and one that never came as received."""
    reception = Reception(GEOMETRY, epoch=0, streams=2)
    receive(reception, 0, part_of_span(0, 0, 0))
    with pytest.raises(DeliveryError):
        reception.begin(0, intruder)


def test_a_span_is_not_continued_on_another_stream() -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=2)
    receive(reception, 0, part_of_span(0, 0, 0))
    with pytest.raises(DeliveryError):
        reception.begin(1, part_of_span(0, 0, 600, 400))
