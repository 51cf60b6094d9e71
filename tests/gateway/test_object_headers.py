"""Ranges, conditions and metadata of plain objects, and the parts they were uploaded in."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from objectcache.errors import (
    InvalidArgumentError,
    InvalidPartError,
    NotSupportedError,
    PreconditionFailedError,
    RangeError,
)
from objectcache.gateway.object_headers import (
    NotModified,
    WriteConditions,
    byte_range,
    check_read,
    copied_range,
    copy_source,
    if_range_holds,
    is_header_value,
    metadata_of,
    own_metadata,
    told_of,
    write_conditions,
)
from objectcache.gateway.object_parts import ROOM_FOR_OWN, part_of, with_part_sizes
from objectcache.stores import ObjectInfo
from objectcache.stores.base import check_metadata

MODIFIED_S = 1_700_000_000.75
INFO = ObjectInfo("name", 1000, MODIFIED_S, "abc", {})
BEFORE, AT, AFTER = (formatdate(int(MODIFIED_S) + more, usegmt=True) for more in (-1, 0, 1))


def headers(**named: str) -> CIMultiDict[str]:
    return CIMultiDict({name.replace("_", "-"): value for name, value in named.items()})


# -- ranges -----------------------------------------------------------------------------------------


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_ranges_are_slices(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    for header, expected in (
        (f"bytes={first}-{last}", data[first : last + 1]),
        (f"bytes={first}-", data[first:]),
        (f"bytes=-{last}", data[-last:] if last else b""),
    ):
        if header == f"bytes={first}-{last}" and last < first:
            assert byte_range(header, size) is None
            continue
        try:
            found = byte_range(header, size)
        except RangeError:
            assert expected == b""
        else:
            assert found is not None
            assert data[slice(*found)] == expected != b""


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, None),
        ("bytes=0-" + "9" * 5000, (0, 1000)),
        ("bytes=-" + "9" * 5000, (0, 1000)),
        ("bytes=" + "0" * 5000 + "5-7", (5, 8)),
        (" bytes=1-2 ", (1, 3)),
        ("bytes=1-2,4-5", None),
        ("bytes=٣-٤", None),
        ("bytes=²-3", None),
        ("bytes= 1-2", None),
        ("BYTES=1-2", None),
        ("bytes=-", None),
        ("", None),
    ],
)
def test_odd_ranges(header: str | None, found: tuple[int, int] | None) -> None:
    assert byte_range(header, 1000) == found


def test_a_position_of_many_digits_is_behind_the_end() -> None:
    with pytest.raises(RangeError):
        byte_range("bytes=" + "9" * 5000 + "-", 1000)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("bytes=0-1000", RangeError),
        ("bytes=5-" + "9" * 5000, RangeError),
        ("bytes=5-4", InvalidArgumentError),
        ("bytes=5-", InvalidArgumentError),
        ("bytes=-5", InvalidArgumentError),
        ("5-6", InvalidArgumentError),
        ("bytes=²-3", InvalidArgumentError),
    ],
)
def test_a_range_to_copy_lies_within_the_source(header: str, error: type[Exception]) -> None:
    assert copied_range("bytes=0-999", 1000) == (0, 1000)
    with pytest.raises(error):
        copied_range(header, 1000)


# -- conditions -------------------------------------------------------------------------------------

FAILED, SAME, SENT = "412", "304", "200"


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        ({}, SENT),
        ({"If_Match": '"abc"'}, SENT),
        ({"If_Match": "abc"}, SENT),
        ({"If_Match": '"x", "abc"'}, SENT),
        ({"If_Match": "*"}, SENT),
        ({"If_Match": '"x"'}, FAILED),
        ({"If_Match": 'W/"abc"'}, FAILED),
        ({"If_None_Match": '"abc"'}, SAME),
        ({"If_None_Match": 'W/"abc"'}, SAME),
        ({"If_None_Match": "*"}, SAME),
        ({"If_None_Match": '"x","abc"'}, SAME),
        ({"If_None_Match": '"x"'}, SENT),
        ({"If_Modified_Since": BEFORE}, SENT),
        ({"If_Modified_Since": AT}, SAME),
        ({"If_Modified_Since": AFTER}, SAME),
        ({"If_Unmodified_Since": BEFORE}, FAILED),
        ({"If_Unmodified_Since": AT}, SENT),
        ({"If_Unmodified_Since": AFTER}, SENT),
        # An ETag counts more than a date that says the same thing less well.
        ({"If_None_Match": '"x"', "If_Modified_Since": AFTER}, SENT),
        ({"If_None_Match": '"abc"', "If_Modified_Since": BEFORE}, SAME),
        ({"If_Match": '"abc"', "If_Unmodified_Since": BEFORE}, SENT),
        ({"If_Match": '"x"', "If_None_Match": '"abc"'}, FAILED),
        ({"If_Match": '"abc"', "If_None_Match": '"abc"'}, SAME),
        # What is no date does not count.
        ({"If_Modified_Since": "yesterday"}, SENT),
        ({"If_Unmodified_Since": "yesterday"}, SENT),
        ({"If_Modified_Since": "Mon, 01 Jan 0001 00:00:00"}, SENT),
        ({"If_Unmodified_Since": "Mon, 01 Jan 0001 00:00:00"}, FAILED),
        ({"If_Modified_Since": "Mon, 99 Foo 99999 00:00:00 GMT"}, SENT),
    ],
)
def test_conditions_of_reads(asked: dict[str, str], outcome: str) -> None:
    assert answered(asked) == outcome
    # A copy is made, or refused.
    assert answered(asked, "x-amz-copy-source-") == (FAILED if outcome == SAME else outcome)


def answered(asked: dict[str, str], prefix: str = "") -> str:
    sent = CIMultiDict({f"{prefix}{name.replace('_', '-')}": value for name, value in asked.items()})
    try:
        check_read(sent, INFO, prefix=prefix)
    except PreconditionFailedError:
        return FAILED
    except NotModified:
        return SAME
    return SENT


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ('"abc"', True),
        ("abc", True),
        ('W/"abc"', False),
        ('"x"', False),
        (AT, True),
        (BEFORE, False),
        (AFTER, False),
        ("nonsense", False),
    ],
)
def test_a_range_of_another_object_does_not_count(wanted: str, holds: bool) -> None:
    assert if_range_holds(headers(If_Range=wanted), INFO) is holds
    assert if_range_holds(headers(), INFO)


def test_conditions_of_writes() -> None:
    assert write_conditions(headers()) == WriteConditions()
    assert not write_conditions(headers())
    assert write_conditions(headers(If_None_Match=" * ")) == WriteConditions(if_absent=True)
    assert write_conditions(headers(If_Match='"abc"')) == WriteConditions(if_match="abc")
    assert write_conditions(headers(If_Match="*")) == WriteConditions(if_match="*")
    for refused in ({"If_None_Match": '"abc"'}, {"If_Match": '"a","b"'}, {"If_Match": "*", "If_None_Match": "*"}):
        with pytest.raises(NotSupportedError):
            write_conditions(headers(**refused))


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        (WriteConditions(if_absent=True), False),
        (WriteConditions(if_match="abc"), True),
        (WriteConditions(if_match="*"), True),
        (WriteConditions(if_match="x"), False),
    ],
)
def test_conditions_of_writes_against_what_is_there(conditions: WriteConditions, holds: bool) -> None:
    if holds:
        conditions.check(INFO)
    else:
        with pytest.raises(PreconditionFailedError):
            conditions.check(INFO)


# -- metadata ---------------------------------------------------------------------------------------


def test_what_is_kept_and_told_again() -> None:
    sent = CIMultiDict(
        [
            ("Content-Type", "text/plain"),
            ("Content-Encoding", "gzip, aws-chunked"),
            ("Cache-Control", "no-store"),
            ("X-Amz-Meta-Colour", "red"),
            ("x-amz-meta-colour", "blue"),
            ("Host", "x"),
            ("Content-Length", "5"),
            ("x-kv-part-sizes", "1*1"),
            ("x-amz-checksum-crc32", "AAAA"),
        ]
    )
    kept = metadata_of(sent)
    assert kept == {
        "content-type": "text/plain",
        "content-encoding": "gzip",
        "cache-control": "no-store",
        "x-amz-meta-colour": "red,blue",
    }
    told = told_of(ObjectInfo("n", 1, MODIFIED_S, "abc", kept), checksums=True)
    assert told == {
        "ETag": '"abc"',
        "Last-Modified": AT,
        "Accept-Ranges": "bytes",
        "Content-Type": "text/plain",
        "Content-Encoding": "gzip",
        "Cache-Control": "no-store",
        "x-amz-meta-colour": "red,blue",
    }
    assert "content-encoding" not in metadata_of(headers(Content_Encoding="aws-chunked"))


def test_checksums_are_told_to_those_who_ask() -> None:
    info = ObjectInfo("n", 1, 0.0, "abc", {"x-amz-checksum-crc32": "AAAA", "x-kv-part-sizes": "1*1", "expires": "0"})
    assert "x-amz-checksum-crc32" not in told_of(info, checksums=False)
    assert told_of(info, checksums=True)["x-amz-checksum-crc32"] == "AAAA"
    assert not [name for name in told_of(info, checksums=True) if name.startswith("x-kv-")]
    assert own_metadata(info) == {"x-amz-checksum-crc32": "AAAA", "x-kv-part-sizes": "1*1"}


def test_what_would_be_lost_is_refused() -> None:
    with pytest.raises(NotSupportedError):
        metadata_of(CIMultiDict({"X-Amz-Tagging": "a=b"}))


@given(st.text())
def test_no_value_of_a_header_ends_it(text: str) -> None:
    assert is_header_value(text) == (not any((ord(char) < 32 and char != "\t") or char == "\x7f" for char in text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bucket/key", ("bucket", "key")),
        ("/bucket/a%2Fb%3F", ("bucket", "a/b?")),
        ("bucket%2Fkey", ("bucket", "key")),
        ("bucket/a//b", ("bucket", "a//b")),
        ("bucket/key?versionId=null", ("bucket", "key")),
    ],
)
def test_sources_of_copies(text: str, found: tuple[str, str]) -> None:
    assert copy_source(text) == found


@pytest.mark.parametrize("text", ["", "/", "bucket", "bucket/", "/key/", "bucket/key?versionId=1"])
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        copy_source(text)


# -- parts ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 20) | st.just(8 << 20), min_size=1, max_size=60))
def test_parts_are_found_by_number(sizes: list[int]) -> None:
    metadata = with_part_sizes({"content-type": "x"}, sizes)
    assert metadata["content-type"] == "x"
    info = ObjectInfo("n", sum(sizes), 0.0, f"abc-{len(sizes)}", metadata)
    check_metadata(metadata)
    if "x-kv-part-sizes" not in metadata:  # too many kinds of parts
        sizes = [sum(sizes)]
    at = 0
    for number, size in enumerate(sizes, 1):
        assert part_of(info, str(number)) == ((at, at + size), len(sizes))
        at += size
    with pytest.raises(InvalidPartError):
        part_of(info, str(len(sizes) + 1))


def test_room_is_kept_for_what_completion_adds() -> None:
    longest = max(
        (with_part_sizes({}, [5 << 20, *range(5 << 20, (5 << 20) + count)]) for count in range(60)),
        key=lambda metadata: len(metadata.get("x-kv-part-sizes", "")),
    )
    assert len(longest["x-kv-part-sizes"]) <= len(ROOM_FOR_OWN["x-kv-part-sizes"])


@pytest.mark.parametrize("number", ["0", "10001", "-1", "1.0", "", "²", "٣", "0" * 5000 + "1", "1" * 5000])
def test_what_is_no_number_of_a_part(number: str) -> None:
    with pytest.raises(InvalidArgumentError):
        part_of(INFO, number)
