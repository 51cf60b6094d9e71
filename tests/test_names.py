from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache import names
from objectcache.errors import InvalidObjectNameError
from objectcache.stores import check_name

WRITERS = st.text("abcxyz0189-", min_size=1, max_size=64)
SEQUENCES = st.integers(0, names.MAX_SEQUENCE)


def test_a_sequence_is_four_groups_of_three_digits() -> None:
    assert names.segment_name("w", 1234) == ".kv/seg/w/000/000/001/234"
    assert names.log_name("w", 0) == ".kv/log/w/000/000/000/000"


@given(WRITERS, SEQUENCES)
def test_names_parse_back_and_are_allowed_in_a_store(writer: str, sequence: int) -> None:
    for make, parse in (
        (names.segment_name, names.parse_segment_name),
        (names.log_name, names.parse_log_name),
        (names.snapshot_name, names.parse_snapshot_name),
    ):
        name = check_name(make(writer, sequence))
        assert parse(name) == (writer, sequence)
        assert names.is_reserved(name)


@given(SEQUENCES, SEQUENCES)
def test_names_sort_as_numbers(a: int, b: int) -> None:
    assert (names.log_name("w", a) < names.log_name("w", b)) == (a < b)


@given(st.binary(min_size=32, max_size=32))
def test_namespaces_parse_back(digest: bytes) -> None:
    assert names.parse_namespace_name(names.namespace_name(digest)) == digest


@pytest.mark.parametrize(
    "name",
    [
        "",
        "w/000/000/000/001",
        ".kv/seg/w/000/000/000/001/",
        ".kv/seg/w/000/000/000/001\n",
        ".kv/seg/w/000/000/001",
        ".kv/seg/w/000/000/0001",
        ".kv/seg/W/000/000/000/001",
        ".kv/seg//000/000/000/001",
        ".kv/seg/w/000/000/000/00\u0661",
        ".kv/log/w/000/000/000/001",
        ".kv/seg/" + "w" * 65 + "/000/000/000/001",
    ],
)
def test_anything_else_is_no_segment(name: str) -> None:
    with pytest.raises(InvalidObjectNameError):
        names.parse_segment_name(name)


@pytest.mark.parametrize("name", [".kv/ns/ab.json", ".kv/ns/" + "A" * 64 + ".json", ".kv/ns/" + "a" * 64, "a" * 64])
def test_anything_else_is_no_namespace(name: str) -> None:
    with pytest.raises(InvalidObjectNameError):
        names.parse_namespace_name(name)


def test_writers_and_sequences_are_checked() -> None:
    for writer in ("", "A", "a/b", "..", "w" * 65, "w\n"):
        with pytest.raises(InvalidObjectNameError):
            names.segment_name(writer, 1)
    for sequence in (-1, names.MAX_SEQUENCE + 1):
        with pytest.raises(InvalidObjectNameError):
            names.segment_name("w", sequence)
