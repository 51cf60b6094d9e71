"""Deliveries at a rate, over sessions: every byte in its place, whatever was cut, and no faster than it may."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from objectcache.delivery import Delivery
from objectcache.errors import DeliveryCancelledError
from objectcache.stores import FileStore, MemoryStore, ReadCache, Store
from objectcache.transports.pacing import LATENESS_S, LEAST_STEP_BYTES, Pace
from objectcache.transports.shared_memory import MappedFiles
from tests.gateway.process import eventually
from tests.stores.counting import CountingStore
from tests.transports.sending import StoredPrefix, open_session, store_prefix
from tests.transports.test_placing import CHUNKS, LAYERS, SEGMENTS, SLICE_BYTES, World

RATE_BYTES_S = 1e8
TOTAL_BYTES = SEGMENTS * CHUNKS * LAYERS * SLICE_BYTES
SHAPE = {"segments": SEGMENTS, "chunks": CHUNKS, "layers": LAYERS, "slice_bytes": SLICE_BYTES}
STREAMS = 2


def opened(kind: str, path: Path) -> tuple[Store, StoredPrefix]:
    origin: Store = FileStore(path / "files") if kind == "files" else MemoryStore()
    prefix = store_prefix(origin, 1, **SHAPE)
    if kind == "far":
        return CountingStore(origin), prefix
    if kind == "cached":
        return ReadCache(CountingStore(origin), path / "cache", limit_bytes=1 << 30), prefix
    return origin, prefix


KINDS = ("files", "near", "far", "cached")


class Rate:
    def __init__(self, bytes_s: float) -> None:
        self.bytes_s = bytes_s
        self.sent_bytes = 0

    def pace(self) -> Pace:
        return Pace(lambda: self.bytes_s, self._report)

    def _report(self, total_bytes: int) -> None:
        self.sent_bytes = total_bytes


def least_s(bytes_s: float) -> float:
    return (TOTAL_BYTES - 2 * LEAST_STEP_BYTES) / bytes_s - LATENESS_S


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_cut_and_come_whole(kind: str, tmp_path: Path) -> None:
    store, prefix = opened(kind, tmp_path)
    rate = Rate(RATE_BYTES_S)
    with open_session(STREAMS) as session:
        began_s = time.monotonic()
        number = session.deliver(store, prefix, pace=rate.pace())
        assert session.wait(number) is None
        took_s = time.monotonic() - began_s
        assert session.received[number].whole(prefix)
    assert took_s >= least_s(RATE_BYTES_S)
    assert rate.sent_bytes == TOTAL_BYTES


@pytest.mark.parametrize("kind", KINDS)
def test_placements_are_cut_and_come_whole(kind: str, tmp_path: Path) -> None:
    store, prefix = opened(kind, tmp_path)
    rate = Rate(RATE_BYTES_S)
    world = World(store, prefix, MappedFiles())
    try:
        began_s = time.monotonic()
        view, told = world.deliver(rate.pace())
        eventually(lambda: len(told.units) == LAYERS, "all layers land")
        assert time.monotonic() - began_s >= least_s(RATE_BYTES_S)
        assert world.landed(view)
        del view
    finally:
        world.close()
    assert rate.sent_bytes == TOTAL_BYTES


def test_a_slow_delivery_does_not_hold_up_a_fast_one(tmp_path: Path) -> None:
    store, prefix = opened("files", tmp_path)
    slow, fast = Rate(LEAST_STEP_BYTES / 0.02), Rate(10 * RATE_BYTES_S)
    with open_session(STREAMS) as session:
        first = session.deliver(store, prefix, pace=slow.pace())
        eventually(lambda: slow.sent_bytes, "it has begun")
        second = session.deliver(store, prefix, pace=fast.pace())
        assert session.wait(second) is None
        assert slow.sent_bytes < TOTAL_BYTES / 2
        slow.bytes_s = float("inf")
        assert session.wait(first) is None
        assert all(session.received[number].whole(prefix) for number in (first, second))


def _cancelled(state: Delivery, cancel: Callable[[], bool]) -> None:
    assert cancel()
    assert isinstance(state.outcome, DeliveryCancelledError)


def test_a_paused_delivery_is_cancelled_at_once(tmp_path: Path) -> None:
    store, prefix = opened("files", tmp_path)
    rate = Rate(RATE_BYTES_S)
    with open_session(STREAMS) as session:
        number = session.deliver(store, prefix, pace=rate.pace())
        eventually(lambda: rate.sent_bytes, "it has begun")
        rate.bytes_s = 0.0
        time.sleep(0.02)
        assert rate.sent_bytes < TOTAL_BYTES
        _cancelled(session.actives[0].state, lambda: session.sender.cancel(number, 0, 5.0))
        assert isinstance(session.wait(number), DeliveryCancelledError)


def test_a_delivery_gets_a_rate_while_it_runs(tmp_path: Path) -> None:
    store, prefix = opened("files", tmp_path)
    first, then = Rate(RATE_BYTES_S), Rate(0.0)
    begun: list[int] = []
    with open_session(STREAMS) as session:
        number = session.deliver(store, prefix, pace=first.pace())
        eventually(lambda: first.sent_bytes > TOTAL_BYTES // 8, "it has begun")

        def make(sent_bytes: int) -> Pace:
            begun.append(sent_bytes)
            return Pace(lambda: then.bytes_s, then._report, sent_bytes)

        session.sender.set_pace(number, 0, make)
        time.sleep(0.05)
        assert then.sent_bytes == 0
        then.bytes_s = float("inf")
        assert session.wait(number) is None
        assert session.received[number].whole(prefix)
    assert 0 < begun[0] <= then.sent_bytes


def test_a_rate_that_is_another_at_every_look(tmp_path: Path) -> None:
    store, prefix = opened("files", tmp_path)
    rates = itertools.cycle((0.0, 10 * RATE_BYTES_S))
    with open_session(1) as session:
        number = session.deliver(store, prefix, pace=Pace(lambda: next(rates), lambda total_bytes: None))
        assert session.wait(number) is None
        assert session.received[number].whole(prefix)
