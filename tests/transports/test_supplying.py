"""Who makes spans ready, and when: before none are left, and not before every stream has sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from objectcache.delivery import Delivery
from objectcache.stores import MemoryStore
from objectcache.transports import supplying
from objectcache.transports.active import ActiveDelivery, ReadySpan
from objectcache.transports.sender import SenderSession, _Do
from objectcache.transports.source import spans_of
from objectcache.workers.open_objects import OpenObjects
from tests.transports.sending import PATIENCE_S, store_prefix

MIB = 1 << 20
STREAMS = 3
SPANS = 20
"""Of 1 MiB each."""


@pytest.fixture
def active() -> Iterator[ActiveDelivery]:
    """None of its spans is ready; a turn is a frame."""
    store = MemoryStore()
    prefix = store_prefix(store, 1, segments=1, chunks=8 * SPANS, layers=1, slice_bytes=MIB // 8)
    held = OpenObjects().hold(store, prefix.plan.segment_bytes)
    state = Delivery(streams=STREAMS, credit_bytes=0, deadline_s=time.monotonic() + PATIENCE_S)
    yield ActiveDelivery(1, 0, state, spans_of(prefix.plan, held.readers, 1, 0), lambda error: None)
    held.release()


def test_each_stream_sends_before_any_makes_more(active: ActiveDelivery) -> None:
    changed = threading.Condition()
    assert active.is_short(0, STREAMS)
    active.preparing = True
    assert not active.is_short(1, STREAMS), "one does it already"
    supplying.first(active, changed)
    supplying.second(active, changed, STREAMS)
    assert not active.preparing
    for stream in range(STREAMS):
        assert not active.is_short(stream, STREAMS), "it sends first"
        active.take_turn(stream, 0)
    assert active.is_short(0, STREAMS), "nothing is left"


def test_more_is_made_while_some_is_left(active: ActiveDelivery) -> None:
    changed = threading.Condition()
    active.begun = True
    sent, left_when_short = 0, []
    while active.is_ready(0) is False or active.peek(0) is not None:
        if active.is_short(0, STREAMS):
            left_when_short.append(len(active._ready))
            active.preparing = True
            supplying.prepare(active, changed, STREAMS)
            assert not active.preparing
            continue
        active.take_turn(0, 0)
        sent += 1
    assert sent == SPANS, "each once, and none is forgotten"
    assert left_when_short[:2] == [0, 0], "at first each stream sends what it has"
    assert set(left_when_short[2:]) == {1}, "of a turn for each stream, one is left"
    assert not active.is_short(0, STREAMS), "there are no more"


def test_a_part_for_every_stream_is_offered_as_it_is_made(
    active: ActiveDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait for it where nothing is ready; and where turns have no size, as placements', each is one for all."""
    active.begun, active.turn_bytes = True, 1
    changed = threading.Condition()
    offered = []
    offer = active.offer

    def spying(spans: list[ReadySpan], *, last: bool = False) -> None:
        offered.append(len(spans))
        offer(spans, last=last)

    monkeypatch.setattr(active, "offer", spying)
    supplying.prepare(active, changed, STREAMS)
    assert offered == [1] * STREAMS


def test_nothing_is_made_ready_past_the_deadline(active: ActiveDelivery) -> None:
    session = SenderSession(STREAMS)
    with session._changed:
        step = session._step(0, active, time.monotonic())
        assert step is not None
        assert step.do is _Do.PREPARE
        active.preparing = False
        step = session._step(0, active, time.monotonic() + 2 * PATIENCE_S)
        assert step is None or step.do is _Do.LAST_WORD
