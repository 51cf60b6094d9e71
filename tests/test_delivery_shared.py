"""The receiving side of a delivery whose sender writes the memory itself: when may it be used again?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.delivery import Reception
from objectcache.errors import DeliveryError, GatewayUnavailableError, IntegrityError, KeyNotFoundError
from objectcache.frames import PIECE, Frame, FrameType, decode_frame
from objectcache.layout import DeliveryGeometry, PartShape

STREAMS = 2
SHAPE = PartShape(layers=(0, 1, 2), slice_bytes=(100, 100, 40), num_chunks=8)
GEOMETRY = DeliveryGeometry((SHAPE,), 1)


def placed(layer: int, first: int, count: int, *, per_digest: int = 1, **fields: Any) -> Frame:
    """`count` chunks, of which each digest covers `per_digest`."""
    frame = Frame(
        FrameType.PLACED,
        delivery=1,
        epoch=0,
        flags=PIECE if per_digest > 1 else 0,
        layer=layer,
        first_chunk=first,
        num_chunks=count,
        data_bytes=(SHAPE.slice_bytes[layer] if layer < 3 else 1) * count,
        extra=-(-count // per_digest) - 1,
        span_offset=per_digest,
    )
    return frame._replace(**fields)


def last_word(kind: FrameType = FrameType.END) -> Frame:
    return Frame(kind, 1, 0)


def shared() -> Reception:
    return Reception(GEOMETRY, epoch=0, streams=STREAMS, shared=True)


def take(reception: Reception, stream: int, frame: Frame) -> tuple[int, ...]:
    assert reception.place(stream, frame) is not None
    return reception.finish(stream, frame, frame.data_bytes)


def test_what_is_placed_completes_its_unit_and_the_last_of_it_the_delivery() -> None:
    reception = shared()
    assert reception.place(0, placed(1, 2, 6, per_digest=4)) == GEOMETRY.offset(0, 1) + 200
    assert reception.finish(0, placed(1, 2, 6, per_digest=4), 600) == ()
    assert take(reception, 1, placed(1, 0, 2)) == (1,)
    assert not reception.fenced
    assert take(reception, 0, placed(0, 0, 8, per_digest=8)) == (0,)
    assert take(reception, 1, placed(2, 0, 8)) == (2,)
    assert reception.fenced, "all has been copied: nothing more will be"
    assert reception.writing == frozenset()


def test_a_cancelled_delivery_is_fenced_by_the_last_word_of_every_stream() -> None:
    reception = shared()
    take(reception, 0, placed(0, 0, 4))
    reception.cancel()
    assert reception.place(0, placed(0, 4, 4)) is None
    assert reception.writing == {0, 1}
    reception.end(0, last_word(FrameType.CANCELLED))
    assert not reception.fenced
    reception.end(1, Frame(FrameType.CANCELLED, 1, epoch=1))  # of another attempt
    assert not reception.fenced
    reception.end(1, last_word(FrameType.CANCELLED))
    assert reception.fenced


def test_a_failed_delivery_is_fenced_by_the_end_of_every_stream() -> None:
    reception = shared()
    reception.fail(IntegrityError("wrong"))
    assert not reception.fenced
    reception.lose(0, GatewayUnavailableError("gone"))
    assert not reception.fenced
    reception.lose(1, GatewayUnavailableError("gone"))
    assert reception.fenced
    assert isinstance(reception.error, IntegrityError)


def test_what_is_being_verified_is_not_used_again() -> None:
    reception = shared()
    frame = placed(0, 0, 8)
    assert reception.place(0, frame) == 0
    reception.cancel()
    reception.end(1, last_word())
    reception.lose(1, GatewayUnavailableError("gone"))
    assert reception.writing == {0}
    assert not reception.fenced
    reception.finish(0, frame, 800)
    assert not reception.fenced
    reception.end(0, last_word())
    assert reception.fenced


def test_what_was_refused_is_fenced_at_once() -> None:
    reception = shared()
    reception.withdraw(KeyNotFoundError("nothing there"))
    assert reception.fenced


@pytest.mark.parametrize(
    "frame",
    [
        placed(3, 0, 1),
        placed(0, 0, 9),
        placed(0, 8, 1),
        placed(0, 0, 0),
        placed(0, 0, 2, data_bytes=100),
        placed(0, 0, 2, data_bytes=0),
        placed(0, 0, 4, span_offset=0),
        placed(0, 0, 4, extra=0),
        placed(0, 0, 4, per_digest=2, extra=2),
        placed(0, 0, 4, part=1),
    ],
    ids=str,
)
def test_what_cannot_have_been_placed_is_refused(frame: Frame) -> None:
    with pytest.raises(DeliveryError):
        shared().place(0, frame)


def test_the_same_chunks_twice_are_refused() -> None:
    reception = shared()
    take(reception, 0, placed(0, 0, 4))
    with pytest.raises(DeliveryError):
        reception.place(1, placed(0, 3, 2))


def test_large_placements_survive_the_wire() -> None:
    frame = placed(0, 1, 2, per_digest=2, data_bytes=1 << 30)
    assert decode_frame(frame.encode()) == frame


@dataclass
class Sender:
    """A worker that obeys: it writes on a stream until its last word there, or its end."""

    open: set[int] = field(default_factory=lambda: set(range(STREAMS)))
    left: list[Frame] = field(
        default_factory=lambda: [placed(layer, first, 4) for layer in range(3) for first in (0, 4)]
    )


@given(st.data())
def test_whatever_happens_nothing_is_fenced_that_the_sender_may_still_write(data: st.DataObject) -> None:
    reception, sender = shared(), Sender()
    units: list[int] = []
    for _ in range(data.draw(st.integers(0, 14))):
        stream = data.draw(st.integers(0, STREAMS - 1))
        match data.draw(st.sampled_from(["place", "place", "place", "end", "lose", "cancel", "fail"])):
            case "place" if stream in sender.open and sender.left:
                frame = sender.left.pop(0)
                if reception.place(stream, frame) is not None:
                    units += reception.finish(stream, frame, frame.data_bytes)
            case "end" if stream in sender.open:
                sender.open.discard(stream)
                reception.end(stream, last_word())
            case "lose" if stream in sender.open:
                sender.open.discard(stream)
                reception.lose(stream, GatewayUnavailableError("gone"))
            case "cancel":
                reception.cancel()
            case "fail":
                reception.fail(DeliveryError("failed"))
        may_write = bool(sender.open and sender.left)
        assert not (reception.fenced and may_write)
    for stream in list(sender.open):
        reception.lose(stream, GatewayUnavailableError("gone"))
    assert reception.fenced
    assert len(units) == len(set(units))
