"""Segments written by threads: what is read is said to be read before the store's end, and never after it."""

from __future__ import annotations

import threading

from objectcache.storing.segments import SegmentBegin, SegmentEvents, SegmentThreads, Tickets
from tests.gateway.process import PATIENCE_S


def test_nothing_is_said_to_be_read_after_the_end() -> None:
    """By then its memory may be another store's. Layers keep coming while the store is given up."""
    told: list[str] = []
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def begin() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    def end(tickets: Tickets) -> None:
        told.append("ended")
        ended.set()

    events = SegmentEvents(
        on_read=lambda position: told.append(f"read {position}"),
        on_finished=lambda tickets: told.append("finished"),
        on_failed=lambda error: told.append("failed"),
        on_ended=end,
    )
    threads = SegmentThreads(1)
    threads.open(7, [SegmentBegin(begin, 0, 4), SegmentBegin(begin, 4, 8)], events)
    assert begun.wait(PATIENCE_S)
    data = memoryview(bytes(8 * 16))
    threads.layer(7, 0, data, 16)
    threads.abort(7)
    threads.layer(7, 1, data, 16)  # who copies has not heard of it yet
    go_on.set()
    assert ended.wait(PATIENCE_S)
    threads.close(PATIENCE_S)
    assert told[-1] == "ended"
    assert "read 1" not in told
