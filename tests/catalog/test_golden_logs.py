"""The golden commit record and snapshot, read by our code and by hand."""

from __future__ import annotations

from struct import unpack_from

import msgpack

from objectcache.logrecord import decode_record
from objectcache.snapshot import SnapshotPart, open_snapshot
from objectcache.stores import MemoryStore
from tests.catalog.golden import golden_record
from tests.golden.regenerate import CHAIN, FOLDER, segment_header

RECORD = golden_record(segment_header())
WAITING = (
    (".kv/seg/golden/000/000/000/006", (("other", 3),)),
    *((f".kv/seg/other/000/000/000/00{n}", (("other", 3),)) for n in (1, 2)),
)


def test_the_golden_record_can_be_read() -> None:
    assert decode_record((FOLDER / "commit_record.bin").read_bytes(), "golden", 1) == RECORD


def test_the_golden_snapshot_can_be_read() -> None:
    store = MemoryStore()
    store.put("snapshot", (FOLDER / "snapshot.bin").read_bytes())
    snapshot = open_snapshot(store, "snapshot")
    assert snapshot.positions == {"golden": 1}
    assert list(snapshot.parts()) == [SnapshotPart(RECORD.commits, ()), SnapshotPart((), WAITING)]


def test_the_golden_record_by_hand() -> None:
    """Without our code, as a reader in another language would: magic, msgpack, digest."""
    data = (FOLDER / "commit_record.bin").read_bytes()
    assert data[:8] == b"OCKVLOG1"
    body = msgpack.unpackb(data[8:-16])
    commits = body.pop("commits")
    assert body == {
        "version": 1,
        "writer": "golden",
        "sequence": 1,
        "time_s": 1.7e9,
        "deletes": [".kv/seg/other/000/000/000/001"],
        "replaces": [
            [
                [".kv/seg/other/000/000/000/002", ".kv/seg/golden/000/000/000/006"],
                [".kv/seg/golden/000/000/000/008"],
            ]
        ],
        "seen": [["golden", 0], ["other", 3]],
    }
    assert [digests for _, digests in commits] == [b"\7\2" * 8 + b"\7\5" * 8, b"\10\2" * 8 + b"\10\5" * 8]
    for header, _ in commits:
        magic, length = unpack_from("<8sI", header)
        assert magic == b"OCKVSEG1"
        assert msgpack.unpackb(header[12 : 12 + length])["keys"] == CHAIN[1] + CHAIN[2] + CHAIN[3]


def test_the_golden_snapshot_by_hand() -> None:
    """Magic, then frames: length, msgpack, digest."""
    data = (FOLDER / "snapshot.bin").read_bytes()
    assert data[:8] == b"OCKVSNAP"
    at, frames = 8, []
    while at < len(data):
        (length,) = unpack_from("<I", data, at)
        frames.append(msgpack.unpackb(data[at + 4 : at + 4 + length - 16]))
        at += 4 + length
    assert [frame[:2] for frame in frames] == [[0, "head"], [1, "commits"], [2, "removed"], [3, "end"]]
    assert frames[0][2] == [1, [["golden", 1]]]
    assert [len(entry) for entry in frames[1][2]] == [2, 2]
    assert frames[2][2] == [[name, [["other", 3]]] for name, _ in WAITING]
    assert frames[3][2] == [2, 3]
