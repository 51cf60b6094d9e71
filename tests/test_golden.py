"""Stored formats do not change by accident. See tests/golden/README.md when this fails."""

from __future__ import annotations

import hashlib
from struct import unpack_from

import msgpack
import pytest

from objectcache.segment import SegmentReader
from tests.golden.regenerate import CHAIN, FILES, FOLDER, NAMESPACE, layer_data, segment_header
from tests.segments import BytesSource, read_all


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_today_is_what_was_written_then(name: str) -> None:
    assert FILES[name]() == (FOLDER / name).read_bytes()


def test_every_golden_file_is_compared() -> None:
    ours = {"README.md"}
    assert {path.name for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"} - ours == set(FILES)


def test_the_golden_segment_can_be_read() -> None:
    reader = SegmentReader.open(BytesSource((FOLDER / "segment.bin").read_bytes()), segment_header().name)
    assert reader.header == segment_header()
    assert read_all(reader) == [layer_data(2, 48, 1, 4), layer_data(5, 600, 1, 4)]


def test_the_golden_segment_by_hand() -> None:
    """Without our code, as a reader in another language would: magic, length, msgpack, aligned slices, footer."""
    data = (FOLDER / "segment.bin").read_bytes()
    magic, length = unpack_from("<8sI", data)
    assert magic == b"OCKVSEG1"
    body = msgpack.unpackb(data[12 : 12 + length])
    assert body == {
        "version": 1,
        "name": "segments/golden/00000000000000000007",
        "namespace": hashlib.sha256(NAMESPACE.to_json()).digest(),
        "group": 1,
        "shard": 1,
        "chunk_tokens": 8,
        "layers": [2, 5],
        "slice_bytes": [48, 600],
        "parent": CHAIN[0],
        "depth": 1,
        "keys": CHAIN[1] + CHAIN[2] + CHAIN[3],
    }
    assert data[4096 : 4096 + 144] == layer_data(2, 48, 1, 4)
    assert data[8192 : 8192 + 1800] == layer_data(5, 600, 1, 4)
    assert unpack_from("<8sQI", data, 8192 + 1800) == (b"OCKVEND1", len(data), 2)
