"""Log records: what is written can be read, and nothing else can."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import IntegrityError, InvalidObjectNameError, LayoutError
from objectcache.integrity import seal
from objectcache.logrecord import CommitEntry, LaterFormatError, LogRecord, Replacement, decode_record
from objectcache.names import segment_name
from tests.catalog.world import DIGEST, Segments, chain_of, namespace_of, simple_layout

NAMESPACE = namespace_of(simple_layout())
CHAIN = chain_of(NAMESPACE, "abcdefgh")


def some_record() -> LogRecord:
    segments = Segments(NAMESPACE)
    new = segments.entry(CHAIN, 0, 8)
    return LogRecord(
        "writer-1",
        7,
        12.5,
        (new, segments.entry(CHAIN, 2, 5)),
        deletes=(segment_name("x", 1),),
        replaces=(Replacement((segment_name("x", 2), segment_name("y", 1)), (new.name,)),),
        seen=(("x", 3), ("y", 9)),
    )


def body_of(record: LogRecord) -> dict[str, Any]:
    decoded = msgpack.unpackb(record.encoded[8:-16])
    assert isinstance(decoded, dict)
    return decoded


def encoded(body: object, magic: bytes = b"OCKVLOG1") -> bytes:
    return seal(magic + msgpack.packb(body))


def test_a_record_can_be_read_back() -> None:
    record = some_record()
    again = decode_record(record.encoded, "writer-1", 7)
    assert again == record
    assert [name for name, _ in again.removals()] == [segment_name(*name) for name in (("x", 1), ("x", 2), ("y", 1))]
    assert decode_record(encoded(body_of(record)), "writer-1", 7) == record


@given(st.integers(0, 2**20), st.integers(1, 255))
def test_any_flipped_byte_is_noticed(at: int, flip: int) -> None:
    data = bytearray(some_record().encoded)
    data[at % len(data)] ^= flip
    with pytest.raises(IntegrityError):
        decode_record(data, "writer-1", 7)


def test_a_cut_record_is_noticed() -> None:
    data = some_record().encoded
    for length in (0, 8, 15, 16, len(data) // 2, len(data) - 1):
        with pytest.raises(IntegrityError):
            decode_record(data[:length], "writer-1", 7)


def test_a_record_in_anothers_place_is_noticed() -> None:
    for writer, sequence in (("writer-2", 7), ("writer-1", 8)):
        with pytest.raises(IntegrityError):
            decode_record(some_record().encoded, writer, sequence)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": "1"},
        {"sequence": 0},
        {"sequence": 7.0},
        {"sequence": True},
        {"time_s": 12},
        {"time_s": None},
        {"writer": b"writer-1"},
        {"writer": "A"},
        {"commits": [[b"", b""]]},
        {"commits": [b""]},
        {"commits": None},
        {"deletes": ["elsewhere/x"]},
        {"deletes": [b"x"]},
        {"deletes": "x"},
        {"replaces": [[["x"], []]]},
        {"replaces": [[[], []]]},
        {"replaces": [1]},
        {"seen": [["x", -1]]},
        {"seen": [["X", 1]]},
        {"seen": [["x", 1.0]]},
        {"seen": {"x": 1}},
        {"more": 1},
    ],
)
def test_a_malformed_record_is_noticed(change: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        decode_record(encoded(body_of(some_record()) | change), "writer-1", 7)


@pytest.mark.parametrize("body", [None, [], 1, {}, {"version": 1}, [[[[]]]]])
def test_what_is_no_record_is_noticed(body: object) -> None:
    with pytest.raises(IntegrityError):
        decode_record(encoded(body), "writer-1", 7)


def test_an_array_that_claims_to_be_huge_is_noticed() -> None:
    data = seal(b"OCKVLOG1" + b"\xdd\xff\xff\xff\xff")
    with pytest.raises(IntegrityError):
        decode_record(data, "writer-1", 7)


def test_another_magic_is_noticed() -> None:
    with pytest.raises(IntegrityError):
        decode_record(encoded(body_of(some_record()), b"OCKVLOG2"), "writer-1", 7)


def test_a_later_format_is_told_from_damage() -> None:
    with pytest.raises(LaterFormatError):
        decode_record(encoded({"version": 2, "what": "ever"}), "writer-1", 7)


def test_row_digests_fit_the_layers() -> None:
    header = Segments(NAMESPACE).entry(CHAIN, 0, 8).header
    for digests in ((DIGEST,), (DIGEST, b"short")):
        with pytest.raises(LayoutError):
            CommitEntry(header, digests)


def test_only_segment_names_can_be_committed_or_removed() -> None:
    with pytest.raises(LayoutError):
        Segments(NAMESPACE).entry(CHAIN, 0, 8, name="somewhere/else")
    with pytest.raises(InvalidObjectNameError):
        LogRecord("w", 1, 0.0, deletes=("somewhere/else",))


def test_a_record_makes_sense_in_itself() -> None:
    entry = Segments(NAMESPACE).entry(CHAIN, 0, 8)
    old = segment_name("x", 1)
    for wrong in (
        {"commits": (entry, entry)},
        {"commits": (entry,), "deletes": (entry.name,)},
        {"replaces": (Replacement((old,), (entry.name,)),)},
        {"commits": (entry,), "replaces": (Replacement((), (entry.name,)),)},
        {"commits": (entry,), "replaces": (Replacement((entry.name,), (entry.name,)),)},
        {"seen": (("x", -1),)},
    ):
        with pytest.raises(LayoutError):
            LogRecord("w", 1, 0.0, **wrong)
    with pytest.raises(LayoutError):
        LogRecord("w", 0, 0.0)
    with pytest.raises(InvalidObjectNameError):
        LogRecord("W", 1, 0.0)
