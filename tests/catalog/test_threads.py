"""Many threads of the writing process, while the map grows and the catalog begins anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from objectcache.catalog import Catalog
from objectcache.catalog.gate import Gate
from objectcache.logrecord import LogRecord
from tests.catalog.world import Log, Segments, chain_of, namespace_of, simple_layout

NAMESPACE = namespace_of(simple_layout())
CHAIN = chain_of(NAMESPACE, "t" * 4096)


class Loops:
    """Calls functions over and over, each in a thread of its own; errors come out at the end."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: list[Exception] = []
        self.rounds = 0

    def start(self, function: Callable[[], object]) -> None:
        def run() -> None:
            while not self._stop.is_set():
                try:
                    function()
                    self.rounds += 1
                    time.sleep(0.001)  # locks are not fair
                except Exception as error:  # noqa: BLE001
                    self._errors.append(error)
                    return

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        if self._errors:
            raise self._errors[0]


def test_threads_read_and_write_while_the_map_grows(tmp_path: Path) -> None:
    segments = Segments(NAMESPACE)
    with Catalog.open(tmp_path, map_bytes=1 << 17) as catalog:
        held = [0, 0]

        def match(reader: int) -> None:
            runs = catalog.match_part(CHAIN, 0, 0)
            now = sum(run.stop - run.first for run in runs)
            assert now >= held[reader]
            held[reader] = now
            catalog.touch([run.segment.id for run in runs], time.time())

        loops = Loops()
        loops.start(lambda: match(0))
        loops.start(lambda: match(1))
        loops.start(catalog.flush)
        loops.start(lambda: list(catalog.eviction_order()))
        loops.start(lambda: list(catalog.segments()))
        log = Log(catalog)
        for first in range(0, 4096, 32):
            log.commit(segments.entry(CHAIN, first, first + 32))
        loops.end()
        assert catalog.stats().map_bytes > 1 << 17
        assert len(catalog.match_part(CHAIN, 0, 0)) == 128
        assert loops.rounds > 0


def test_threads_read_while_the_catalog_begins_anew(tmp_path: Path) -> None:
    entries = tuple(Segments(NAMESPACE).entries(CHAIN, range(0, 257, 32)))
    with Catalog.open(tmp_path) as catalog:

        def match() -> None:
            assert len(catalog.match_part(CHAIN, 0, 0)) in (0, 8)

        loops = Loops()
        for _ in range(3):
            loops.start(match)
        for _ in range(20):
            catalog.reset()
            catalog.apply([LogRecord("w", 1, 0.0, entries)])
        loops.end()
        assert len(list(catalog.segments())) == 8


def test_a_gate_that_is_wanted_closed_lets_nobody_else_in() -> None:
    gate = Gate()
    order: list[str] = []
    gate.enter()

    def close() -> None:
        with gate.closed():
            order.append("closed")

    def enter() -> None:
        gate.enter()
        order.append("entered")
        gate.leave()

    threads = [threading.Thread(target=close), threading.Thread(target=enter)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    assert order == []
    gate.leave()
    for thread in threads:
        thread.join()
    assert order == ["closed", "entered"]


def test_a_gate_opens_again_after_an_error() -> None:
    gate = Gate()
    with pytest.raises(ValueError), gate.closed():
        raise ValueError
    gate.enter()
    gate.leave()
