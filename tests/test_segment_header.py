"""Segment headers: what one says, and what is refused as one."""

from __future__ import annotations

from struct import pack
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from objectcache.errors import IntegrityError, LayoutError
from objectcache.integrity import seal
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import KVLayout
from objectcache.segment import (
    FORMAT_VERSION,
    MAX_HEADER_BYTES,
    SegmentHeader,
    decode_header,
    decoded_name,
    header_length,
)
from tests.segments import make_header, random_chain

HEADER = make_header(num_chunks=3, layers=(0, 2), slice_bytes=(40, 41))


def fields() -> dict[str, Any]:
    """What HEADER's body says."""
    body: dict[str, Any] = msgpack.unpackb(HEADER.encoded[12:-16])
    return body


def sealed(body: bytes) -> bytes:
    """A header with that body whose length and digest are right."""
    return seal(pack("<8sI", b"OCKVSEG1", len(body)) + body)


def refused(data: bytes) -> str:
    """Why decode_header refuses `data`. Any error but IntegrityError is a failure."""
    with pytest.raises(IntegrityError) as error:
        decode_header(data)
    return str(error.value)


@st.composite
def headers(draw: st.DrawFn) -> SegmentHeader:
    layers = sorted(draw(st.sets(st.integers(0, 4095), min_size=1, max_size=6)))
    depth = draw(st.integers(0, (1 << 32) - 1))
    namespace = draw(st.binary(min_size=32, max_size=32))
    return SegmentHeader(
        name=draw(st.text(min_size=1, max_size=20)),
        namespace=namespace,
        group=draw(st.integers(0, 63)),
        shard=draw(st.integers(0, 4095)),
        chunk_tokens=draw(st.integers(1, 1 << 16)),
        layers=tuple(layers),
        slice_bytes=tuple(draw(st.lists(st.integers(1, 1 << 30), min_size=len(layers), max_size=len(layers)))),
        parent=draw(st.binary(min_size=32, max_size=32)) if depth else namespace,
        depth=depth,
        keys=random_chain(draw(st.integers(0, 99)), draw(st.integers(1, 30))),
    )


@given(headers())
def test_a_header_comes_back(header: SegmentHeader) -> None:
    again = decode_header(header.encoded)
    assert again == header
    assert again.encoded == header.encoded
    assert again.geometry == header.geometry
    assert header_length(header.encoded[:12]) == len(header.encoded)
    assert decode_header(memoryview(bytearray(header.encoded))) == header
    assert decoded_name(header.encoded) == header.name


def test_the_body_is_as_sealed_gives_it() -> None:
    """Without this the tests below could refuse for the wrong reason."""
    assert sealed(msgpack.packb(fields())) == HEADER.encoded
    assert decode_header(sealed(msgpack.packb(fields()))) == HEADER


# -- made from a layout -------------------------------------------------------------------------------

LAYOUT = KVLayout.attention(
    num_layers=6, num_kv_heads=4, head_dim=8, dtype_bytes=2, tensor_parallel=2, pipeline_parallel=2
)
ROOT = Namespace(model="m", layout=LAYOUT, kv_dtype="bfloat16").digest


@pytest.mark.parametrize(("first", "stop"), [(0, 10), (0, 1), (3, 7), (9, 10)])
def test_a_header_of_a_layout_follows_the_chain(first: int, stop: int) -> None:
    chain = random_chain(1, 10)
    header = SegmentHeader.for_layout(
        LAYOUT, name="s", namespace=ROOT, group=0, shard=3, chain=chain, first=first, stop=stop
    )
    assert header.layers == (3, 4, 5)
    assert header.slice_bytes == LAYOUT.shard(0, 3).slice_bytes
    assert header.chunk_tokens == 16
    assert header.depth == first
    assert header.parent == (chain[first - 1] if first else ROOT)
    assert header.keys == chain[first:stop]
    assert header.leaf == chain[stop - 1]
    assert header.num_chunks == stop - first


@pytest.mark.parametrize(
    "wrong", [{"first": -1}, {"stop": 11}, {"first": 5, "stop": 5}, {"group": 1}, {"shard": 4}], ids=repr
)
def test_a_header_of_what_the_layout_or_chain_lacks(wrong: dict[str, int]) -> None:
    arguments = {"group": 0, "shard": 0, "first": 0, "stop": 10, **wrong}
    with pytest.raises(LayoutError):
        SegmentHeader.for_layout(LAYOUT, name="s", namespace=ROOT, chain=random_chain(1, 10), **arguments)


# -- refused ------------------------------------------------------------------------------------------

IMPOSSIBLE: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "x" * 1025},
    {"name": "é" * 513},
    {"namespace": b"N" * 31},
    {"parent": b"P" * 33},
    {"depth": 0},  # with a parent that is not the namespace
    {"depth": -1},
    {"depth": 1 << 32},
    {"keys": b""},
    {"layers": [], "slice_bytes": []},
    {"layers": [0]},
    {"layers": [2, 0]},
    {"layers": [0, 0]},
    {"layers": [-1, 0]},
    {"layers": [0, 4096]},
    {"slice_bytes": [40, 0]},
    {"slice_bytes": [40, (1 << 30) + 1]},
    {"group": -1},
    {"group": 64},
    {"shard": -1},
    {"shard": 4096},
    {"chunk_tokens": 0},
    {"chunk_tokens": (1 << 16) + 1},
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE, ids=repr)
def test_impossible_headers_are_neither_made_nor_read(wrong: dict[str, Any]) -> None:
    said = {**fields(), **wrong}
    assert "malformed" in refused(sealed(msgpack.packb(said)))
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    del made["version"]
    with pytest.raises(LayoutError):
        SegmentHeader(**{**made, "keys": KeyChain(made["keys"])})


def test_a_segment_has_at_most_65536_chunks() -> None:
    longest = make_header(num_chunks=1 << 16)
    assert decode_header(longest.encoded) == longest
    assert len(longest.encoded) < MAX_HEADER_BYTES
    with pytest.raises(LayoutError):
        make_header(num_chunks=(1 << 16) + 1)
    refused(sealed(msgpack.packb({**fields(), "keys": bytes(32 * ((1 << 16) + 1))})))


HOSTILE: list[Any] = [
    None,
    True,
    False,
    1.0,
    float("nan"),
    -(1 << 63),
    (1 << 64) - 1,
    "",
    b"x" * 31,
    [],
    [True, 2],
    [0.0, 2.0],
    ["0", "2"],
    [[0], [2]],
    {},
    {0: 40, 2: 41},
    msgpack.Timestamp(1, 1),
    msgpack.ExtType(5, b"x" * 32),
]


@pytest.mark.parametrize("name", list(fields()))
def test_fields_of_the_wrong_type_are_refused(name: str) -> None:
    for value in HOSTILE:
        refused(sealed(msgpack.packb({**fields(), name: value})))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("namespace", "N" * 32),
        ("parent", "P" * 32),
        ("keys", "K" * 96),
        ("name", b"segments/w/0"),
        ("group", False),
        ("depth", 5.0),
    ],
)
def test_what_python_takes_for_the_same_is_told_by_type(name: str, value: Any) -> None:
    assert name in refused(sealed(msgpack.packb({**fields(), name: value})))


@pytest.mark.parametrize("name", list(fields()))
def test_missing_fields_are_refused(name: str) -> None:
    body = fields()
    del body[name]
    assert name in refused(sealed(msgpack.packb(body)))


def test_only_one_form_is_a_header() -> None:
    body = fields()
    for other in (
        dict(reversed(body.items())),
        {**body, "comment": "x"},
        {**body, "version": True},
        {**body, "version": 1.0},
    ):
        refused(sealed(msgpack.packb(other)))
    long_form = msgpack.packb({**body, "depth": 1 << 20}).replace(pack(">BI", 0xCE, 1 << 20), pack(">BI", 0xCE, 5))
    assert msgpack.unpackb(long_form) == body
    assert "canonical" in refused(sealed(long_form))


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 1 << 63])
def test_a_foreign_version_is_named(version: int) -> None:
    assert f"version {version} is not known" in refused(sealed(msgpack.packb({**fields(), "version": version})))
    # A later version may have quite other fields.
    assert f"version {version} is not known" in refused(sealed(msgpack.packb({"version": version})))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x91" * 100_000,
        b"\x81\xa1v" * 100_000,
        b"\xdd\x00\x3f\xff\xff" * 800 + bytes(1 << 20),
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        msgpack.packb({"version": 1}) + b"\0",
        msgpack.packb({b"\xff": 1}),
        b"\x81\x90\x01",
        b"\xa2\xff\xfe",
    ],
    ids=lambda body: f"{body[:8].hex()} of {len(body)}",
)
def test_bodies_that_are_no_header(body: bytes) -> None:
    assert "malformed" in refused(sealed(body))


packable = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary(), inner, max_size=4),
    max_leaves=10,
)


@given(packable)
@example([1] * 5000)
def test_any_packed_object_is_refused_as_a_header(body: Any) -> None:
    refused(sealed(msgpack.packb(body)))


@given(st.sampled_from(list(fields())), packable)
def test_any_value_of_any_field_is_read_as_written_or_refused(name: str, value: Any) -> None:
    data = sealed(msgpack.packb({**fields(), name: value}))
    try:
        header = decode_header(data)
    except IntegrityError:
        return
    assert header.encoded == data
    read = header.keys.data if name == "keys" else getattr(header, name, FORMAT_VERSION)
    assert (list(read) if isinstance(read, tuple) else read) == value


@given(st.binary(max_size=100))
def test_any_bytes_are_refused_as_a_header(data: bytes) -> None:
    refused(data)
    refused(sealed(data))


def test_lengths_are_checked_before_anything_is_read() -> None:
    assert "limit" in refused(pack("<8sI", b"OCKVSEG1", 0xFFFFFFFF) + bytes(100))
    assert "begins with" in refused(pack("<8sI", b"OCKVSEG2", 50) + bytes(66))
    for data in (HEADER.encoded + b"\0", HEADER.encoded[:-1]):
        assert "as long as it says" in refused(data)
    for length in range(12):
        with pytest.raises(IntegrityError):
            header_length(HEADER.encoded[:length])
