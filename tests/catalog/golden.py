"""A commit record and a snapshot, whose bytes are pinned in tests/golden."""

from __future__ import annotations

from dataclasses import replace

from objectcache.commitlog import CommitLog
from objectcache.logrecord import CommitEntry, LogRecord, Replacement
from objectcache.names import log_name, segment_name
from objectcache.segment import SegmentHeader
from objectcache.stores import MemoryStore


def golden_record(header: SegmentHeader) -> LogRecord:
    """With everything that a record can hold. `header` is the golden segment's; its name cannot be committed."""
    entries = tuple(
        CommitEntry(
            replace(header, name=segment_name("golden", sequence)),
            tuple(bytes([sequence, layer]) * 8 for layer in header.layers),
        )
        for sequence in (7, 8)
    )
    return LogRecord(
        "golden",
        1,
        1.7e9,
        entries,
        deletes=(segment_name("other", 1),),
        replaces=(Replacement((segment_name("other", 2), segment_name("golden", 6)), (entries[1].name,)),),
        seen=(("golden", 0), ("other", 3)),
    )


def golden_snapshot(header: SegmentHeader) -> bytes:
    """Of that record alone."""
    store = MemoryStore()
    store.put(log_name("golden", 1), golden_record(header).encoded)
    return store.get(CommitLog(store, "golden").write_snapshot({"golden": 1}).name)
