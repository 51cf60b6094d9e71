"""The life of a delivery, both sides, without any I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.delivery import Delivery, Reception, Verdict
from objectcache.errors import (
    DeliveryCancelledError,
    DeliveryError,
    DeliveryTimeoutError,
    GatewayUnavailableError,
    IntegrityError,
)
from objectcache.frames import Frame, FrameType, decode_frame
from objectcache.layout import DeliveryGeometry, PartShape

SHAPE = PartShape(layers=(0, 1, 2), slice_bytes=(100, 100, 40), num_chunks=8)
GEOMETRY = DeliveryGeometry((SHAPE,), 1)


def data_frame(layer: int, first: int, count: int, *, epoch: int = 0, part: int = 0) -> Frame:
    size = SHAPE.slice_bytes[layer] if layer < 3 else 1
    return Frame(
        FrameType.DATA,
        delivery=1,
        epoch=epoch,
        part=part,
        layer=layer,
        first_chunk=first,
        num_chunks=count,
        data_bytes=size * count,
        extra=count - 1,
    )


def receive(reception: Reception, stream: int, frame: Frame) -> tuple[int, ...]:
    """One frame, read and verified; the sections that it completes."""
    assert reception.begin(stream, frame) is not None
    whole = reception.span_complete(stream, frame)
    return reception.finish(stream, frame, frame.span_offset + frame.data_bytes if whole else 0)


# -- sending ------------------------------------------------------------------------------------------


def test_sends_until_nothing_is_left_then_says_the_last_word_on_every_stream() -> None:
    delivery = Delivery(streams=2, credit_bytes=0, deadline_s=10)
    assert delivery.verdict(100, now_s=0) is Verdict.SEND
    delivery.begin(0, 100)
    assert delivery.verdict(None, now_s=0) is Verdict.CLOSE
    assert delivery.last_word() is FrameType.END
    delivery.close(1)
    assert not delivery.fenced
    delivery.finish(0)
    delivery.close(0)
    assert delivery.fenced
    assert delivery.outcome is None


def test_credit_bounds_what_is_sent_and_never_shrinks() -> None:
    delivery = Delivery(streams=1, credit_bytes=150, deadline_s=10)
    assert delivery.verdict(100, 0) is Verdict.SEND
    delivery.begin(0, 100)
    delivery.finish(0)
    assert delivery.verdict(100, 0) is Verdict.WAIT
    delivery.grant(300)
    delivery.grant(10)
    assert delivery.verdict(100, 0) is Verdict.SEND


def test_what_is_claimed_uses_up_credit_until_it_begins_or_does_not() -> None:
    delivery = Delivery(streams=2, credit_bytes=250, deadline_s=10)
    delivery.claim(100)
    delivery.claim(100)
    assert delivery.verdict(100, 0) is Verdict.WAIT
    assert delivery.sent_bytes == 0
    delivery.unclaim(100)
    assert delivery.verdict(100, 0) is Verdict.SEND
    delivery.unclaim(100)
    delivery.begin(0, 100)
    assert (delivery.verdict(150, 0), delivery.verdict(151, 0)) == (Verdict.SEND, Verdict.WAIT)


def test_past_the_deadline_it_ends_with_an_error() -> None:
    delivery = Delivery(streams=1, credit_bytes=0, deadline_s=10)
    assert delivery.verdict(100, now_s=10) is Verdict.CLOSE
    assert delivery.last_word() is FrameType.ERROR
    assert isinstance(delivery.outcome, DeliveryTimeoutError)


def test_a_cancelled_delivery_is_quiet_only_when_no_frame_is_under_way() -> None:
    delivery = Delivery(streams=2, credit_bytes=0, deadline_s=10)
    delivery.begin(0, 100)
    delivery.cancel()
    assert not delivery.quiet
    assert delivery.verdict(100, 0) is Verdict.CLOSE
    delivery.finish(0)
    assert delivery.quiet
    assert delivery.last_word() is FrameType.CANCELLED
    assert isinstance(delivery.outcome, DeliveryCancelledError)


def test_a_broken_stream_fails_the_delivery() -> None:
    delivery = Delivery(streams=2, credit_bytes=0, deadline_s=10)
    delivery.begin(1, 100)
    delivery.lose(1)
    assert delivery.last_word() is FrameType.ERROR
    assert not delivery.fenced
    delivery.close(0)
    assert delivery.fenced


# -- receiving ----------------------------------------------------------------------------------------


def test_frames_land_at_their_final_offset_and_complete_their_unit() -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=2)
    frame = data_frame(1, 4, 4)
    assert reception.begin(0, frame) == GEOMETRY.offset(0, 1) + 400
    assert reception.writing == {0}
    assert reception.span_complete(0, frame)
    assert reception.finish(0, frame, 400) == ()
    assert receive(reception, 1, data_frame(1, 0, 4)) == (1,)
    assert receive(reception, 0, data_frame(0, 0, 8)) == (0,)
    assert not reception.complete
    assert receive(reception, 0, data_frame(2, 0, 8)) == (2,)
    assert reception.complete
    assert reception.fenced


def test_a_span_larger_than_a_frame_is_verified_once_it_is_whole() -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=1)
    whole = data_frame(0, 0, 8)
    first = whole._replace(data_bytes=500)
    rest = whole._replace(data_bytes=300, span_offset=500)
    assert reception.begin(0, first) == 0
    assert not reception.span_complete(0, first)
    assert reception.finish(0, first, 0) == ()
    assert reception.begin(0, rest) == 500
    assert reception.span_complete(0, rest)
    assert reception.finish(0, rest, 800) == (0,)


@pytest.mark.parametrize(
    "frame",
    [
        data_frame(0, 0, 4, part=1),
        data_frame(7, 0, 1),
        data_frame(0, 7, 2),
        data_frame(0, 0, 0),
        data_frame(0, 0, 4)._replace(data_bytes=401),
        data_frame(0, 0, 4)._replace(span_offset=100),
        data_frame(0, 0, 4)._replace(extra=1),
    ],
    ids=["part", "layer", "chunks", "empty", "too long", "out of step", "digests"],
)
def test_a_frame_that_was_not_asked_for_is_refused(frame: Frame) -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=1)
    with pytest.raises(DeliveryError):
        reception.begin(0, frame)


def test_the_same_chunks_twice_are_refused() -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=1)
    receive(reception, 0, data_frame(0, 0, 4))
    with pytest.raises(DeliveryError):
        reception.begin(0, data_frame(0, 3, 2))


def test_an_older_epoch_writes_nothing() -> None:
    reception = Reception(GEOMETRY, epoch=3, streams=1)
    assert reception.begin(0, data_frame(0, 0, 8, epoch=2)) is None


def test_after_a_cancellation_nothing_more_is_written_and_the_fence_waits_for_the_frame_under_way() -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=2)
    frame = data_frame(0, 0, 4)
    reception.begin(0, frame)
    reception.cancel()
    assert reception.begin(1, data_frame(0, 4, 4)) is None
    assert not reception.fenced
    reception.span_complete(0, frame)
    assert reception.finish(0, frame, 400) == ()
    assert reception.fenced


def test_a_lost_stream_lets_go_of_its_memory_and_fails_what_it_carried() -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=2)
    reception.begin(0, data_frame(0, 0, 4))
    reception.lose(0, GatewayUnavailableError("gone"))
    assert reception.fenced
    assert isinstance(reception.error, GatewayUnavailableError)


def test_an_end_before_everything_arrived_is_a_failure() -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=2)
    end = Frame(FrameType.END, 1, 0)
    reception.end(0, end)
    assert reception.error is None
    reception.end(1, end)
    assert isinstance(reception.error, DeliveryError)


def test_damage_fails_the_delivery_and_leaves_its_unit_unannounced() -> None:
    reception = Reception(GEOMETRY, epoch=0, streams=1)
    frame = data_frame(0, 0, 8)
    reception.begin(0, frame)
    reception.span_complete(0, frame)
    reception.fail(IntegrityError("damaged"))
    assert reception.finish(0, frame, 0) == ()
    assert not reception.complete
    assert reception.fenced


def test_asking_again_from_a_layer_skips_those_before() -> None:
    reception = Reception(GEOMETRY, epoch=1, streams=1, from_layer=1)
    with pytest.raises(DeliveryError):
        reception.begin(0, data_frame(0, 0, 8, epoch=1))
    assert receive(reception, 0, data_frame(1, 0, 8, epoch=1)) == (1,)
    assert receive(reception, 0, data_frame(2, 0, 8, epoch=1)) == (2,)
    assert reception.complete


@given(st.data())
def test_whatever_the_order_every_unit_is_announced_once_and_the_fence_holds(data: st.DataObject) -> None:
    """Spans over several streams in any interleaving, with a cancellation somewhere: never two units for one, never
    fenced while a stream writes."""
    spans = [data_frame(layer, first, 2) for layer in range(3) for first in range(0, 8, 2)]
    order = data.draw(st.permutations(spans))
    cancel_at = data.draw(st.integers(0, 2 * len(order)))
    reception = Reception(GEOMETRY, epoch=0, streams=3)
    writing: dict[int, Frame] = {}
    units: list[int] = []
    waiting = list(order)
    for step in range(4 * len(order)):
        if step == cancel_at:
            reception.cancel()
        stream = data.draw(st.integers(0, 2))
        if stream in writing:
            frame = writing.pop(stream)
            assert reception.span_complete(stream, frame)
            units += reception.finish(stream, frame, frame.data_bytes)
        elif waiting:
            frame = waiting.pop()
            if reception.begin(stream, frame) is not None:
                writing[stream] = frame
        assert reception.writing == set(writing)
        assert not (reception.fenced and writing)
    assert len(set(units)) == len(units)
    if not waiting and not writing and cancel_at > 4 * len(order):
        assert reception.complete


def test_frames_survive_the_wire() -> None:
    frame = data_frame(2, 3, 4)._replace(unit=7, flags=1, digest=bytes(range(16)))
    assert decode_frame(frame.encode()) == frame
    assert len(frame.encode()) == 64
    with pytest.raises(DeliveryError):
        decode_frame(b"\0" * 64)
