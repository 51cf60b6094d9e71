"""Who makes spans ready, and when: before none are left, and not before every stream has sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from objectcache.delivery import Delivery
from objectcache.stores import MemoryStore
from objectcache.transports import supplying
from objectcache.transports.active import ActiveDelivery
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
