"""Descriptors: what comes back is what was encoded, and whatever is wrong is named."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.descriptor import (
    DESCRIPTOR_VERSION,
    MAX_DESCRIPTOR_BYTES,
    MAX_PARTS,
    Descriptor,
    DescriptorPart,
    FieldReader,
    Target,
    TargetKind,
    Versions,
    decode_descriptor,
)
from objectcache.errors import DescriptorError, RequestError
from objectcache.layout import KVGroup, KVLayout, KVShard
from tests.fuzzing import HOSTILE, ODD_VALUES, Path, answers_properly, mutated, paths, replaced, without
from tests.golden.wire import DESCRIPTOR, LEAF

VALID: dict[str, Any] = msgpack.unpackb(DESCRIPTOR.encode())
FIELDS = [path for path in paths(VALID) if isinstance(path[-1], str)]
IDS = st.just(b"") | st.binary(min_size=16, max_size=16)


def refusal(fields: object) -> str:
    """Why `fields` are refused."""
    with pytest.raises(DescriptorError) as error:
        decode_descriptor(msgpack.packb(fields))
    return str(error.value)


@st.composite
def held_of(draw: st.DrawFn, last_layer: int, num_chunks: int) -> tuple[tuple[tuple[int, int], ...], Versions]:
    """Something that a client may hold of a part."""
    steps = draw(st.integers(0, min(3, last_layer + 1, num_chunks)))
    if not steps:
        return (), ()
    below = sorted(draw(st.sets(st.integers(1, last_layer + 1), min_size=steps, max_size=steps)), reverse=True)
    chunks = sorted(draw(st.sets(st.integers(1, num_chunks), min_size=steps, max_size=steps)))
    cut = draw(st.integers(1, chunks[-1]))
    counts = [count for count in (cut, chunks[-1] - cut) if count]
    tags = draw(st.lists(st.binary(min_size=8, max_size=8), min_size=len(counts), max_size=len(counts)))
    return tuple(zip(below, chunks, strict=True)), tuple(zip(counts, tags, strict=True))


def targets_of(session: bytes) -> st.SearchStrategy[Target]:
    if not session:
        return st.just(Target(TargetKind.HTTP))
    places = st.builds(
        Target, st.sampled_from([TargetKind.SHM, TargetKind.NIXL]), st.just(session), st.integers(0, 1 << 62)
    )
    return places | st.just(Target(TargetKind.TCP, session))


@st.composite
def descriptors(draw: st.DrawFn) -> Descriptor:
    places = draw(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 4095)), min_size=1, max_size=4, unique=True))
    parts = []
    for group, shard in places:
        layers = sorted(draw(st.sets(st.integers(0, 4095), min_size=1, max_size=5)))
        sizes = draw(st.lists(st.integers(1, 1 << 30), min_size=len(layers), max_size=len(layers)))
        first = draw(st.integers(0, (1 << 24) - 1))
        stop = draw(st.integers(first + 1, 1 << 24))
        leaf = draw(st.binary(min_size=32, max_size=32))
        held, versions = draw(held_of(layers[-1], stop - first))
        parts.append(DescriptorPart(group, shard, leaf, first, stop, 16, tuple(layers), tuple(sizes), held, versions))
    session = draw(IDS)
    return Descriptor(
        namespace=draw(st.binary(min_size=32, max_size=32)),
        parts=tuple(parts),
        target=draw(targets_of(session)),
        delivery=draw(st.integers(0, (1 << 64) - 1)),
        epoch=draw(st.integers(0, (1 << 32) - 1)),
        from_layer=draw(st.integers(0, 4096)),
        layers_per_unit=draw(st.integers(0, 1 << 20)),
        credit_bytes=draw(st.integers(0, 1 << 62)),
        windows_s=tuple(draw(st.lists(st.floats(0, 3600), max_size=4))),
        gang=draw(st.text(max_size=256)),
        deadline_s=draw(st.floats(0, 3600)),
        lease=draw(IDS),
        trace=draw(st.text(max_size=256)),
    )


@given(descriptors())
def test_what_is_encoded_is_decoded(descriptor: Descriptor) -> None:
    assert decode_descriptor(descriptor.encode()) == descriptor


@pytest.mark.parametrize("path", FIELDS, ids=str)
def test_a_missing_field_is_named(path: Path) -> None:
    message = refusal(without(VALID, path))
    assert "missing" in message
    assert str(path[-1]) in message


@pytest.mark.parametrize("path", FIELDS, ids=str)
def test_a_field_of_another_type_is_named(path: Path) -> None:
    fits = {
        "gang": str,
        "trace": str,
        "deadline_s": float,
    }
    for value in ODD_VALUES:
        if type(value) is fits.get(str(path[-1])):
            assert decode_descriptor(msgpack.packb(replaced(VALID, path, value)))
        else:
            assert str(path[-1]) in refusal(replaced(VALID, path, value)), value


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("version",), 0),
        (("version",), DESCRIPTOR_VERSION + 1),
        (("version",), 1 << 32),
        (("order",), "chunk"),
        (("namespace",), bytes(31)),
        (("namespace",), bytes(33)),
        (("parts",), []),
        (("parts",), VALID["parts"] * MAX_PARTS),
        (("parts",), [VALID["parts"][0], VALID["parts"][0]]),
        (("parts", 0, "group"), 64),
        (("parts", 0, "shard"), 4096),
        (("parts", 0, "leaf"), bytes(31)),
        (("parts", 0, "first"), 7),
        (("parts", 0, "first"), 8),
        (("parts", 0, "stop"), 3),
        (("parts", 0, "stop"), (1 << 24) + 1),
        (("parts", 0, "chunk_tokens"), 0),
        (("parts", 0, "chunk_tokens"), 1 << 30),
        (("parts", 0, "layers"), []),
        (("parts", 0, "layers"), [4]),
        (("parts", 0, "layers"), [4, 4096]),
        (("parts", 0, "layers"), [0] * 4097),
        (("parts", 0, "slice_bytes"), [0, 320]),
        (("parts", 0, "slice_bytes"), [640]),
        (("parts", 0, "slice_bytes"), [640, (1 << 30) + 1]),
        (("target", "kind"), "rdma"),
        (("target", "kind"), "http"),  # which has no session
        (("target", "session"), b""),
        (("target", "session"), bytes(15)),
        (("delivery",), -1),
        (("epoch",), 1 << 32),
        (("from_layer",), 4097),
        (("layers_per_unit",), (1 << 20) + 1),
        (("credit_bytes",), (1 << 62) + 1),
        (("windows_s",), [-0.1]),
        (("windows_s",), [math.nan]),
        (("windows_s",), [0.5, 3600.5]),
        (("windows_s",), [1, True]),
        (("windows_s",), [0.5, "1"]),
        (("windows_s",), [0.5, math.nan, 0.5]),
        (("windows_s",), [0.0] * 4097),
        (("gang",), "x" * 257),
        (("deadline_s",), math.inf),
        (("deadline_s",), math.nan),
        (("deadline_s",), 3600.5),
        (("lease",), bytes(17)),
        (("trace",), "x" * 257),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_out_of_range_is_named(path: Path, wrong: object) -> None:
    message = refusal(replaced(VALID, path, wrong))
    names = {"kind": "session"} if wrong == "http" else {}
    assert names.get(str(path[-1]), str(path[-1])) in message


def test_an_unknown_field_is_no_harm() -> None:
    assert decode_descriptor(msgpack.packb({**VALID, "since": "a later version"})) == DESCRIPTOR


def test_a_descriptor_has_a_largest_size() -> None:
    padded = msgpack.packb({**VALID, "padding": bytes(MAX_DESCRIPTOR_BYTES)})
    with pytest.raises(DescriptorError, match=str(MAX_DESCRIPTOR_BYTES)):
        decode_descriptor(padded)


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused_quickly(data: bytes) -> None:
    assert answers_properly(decode_descriptor, data)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    assert answers_properly(decode_descriptor, data)


@given(mutated(DESCRIPTOR.encode()))
def test_nearly_right_is_refused_or_means_what_it_says(encoded: bytes) -> None:
    if answers_properly(decode_descriptor, encoded) is None:
        taken = decode_descriptor(encoded)
        assert decode_descriptor(taken.encode()) == taken


# -- against the namespace's layout -----------------------------------------------------------------

LAYOUT = KVLayout((KVGroup("full", 16, (KVShard(0, (0, 1), (64, 32)),)),))
FITTING = replace(DESCRIPTOR, parts=(DescriptorPart.of((0, 0), 0, 4, LEAF, LAYOUT),))


def test_a_part_as_the_layout_has_it() -> None:
    FITTING.check_layout(LAYOUT)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"group": 1}, "group"),
        ({"shard": 1}, "shard"),
        ({"chunk_tokens": 32}, "chunk_tokens"),
        ({"layers": (0, 2)}, "layers"),
        ({"layers": (0,), "slice_bytes": (64,)}, "layers"),
        ({"slice_bytes": (64, 64)}, "slice_bytes"),
    ],
)
def test_a_part_that_is_not_as_the_layout_has_it(change: dict[str, Any], named: str) -> None:
    wrong = replace(FITTING, parts=(replace(FITTING.parts[0], **change),))
    with pytest.raises(DescriptorError, match=named):
        wrong.check_layout(LAYOUT)


def test_versions_of_what_is_not_held_are_refused() -> None:
    """Nothing would compare them, and whoever keeps the part would keep them too."""
    part = replace(DESCRIPTOR.parts[1], held=(), versions=((1, b"8 bytes "),))
    with pytest.raises(DescriptorError, match="version_chunks"):
        decode_descriptor(replace(DESCRIPTOR, parts=(part,)).encode())


def test_a_part_that_differs_in_a_type_only_is_not_the_one_decoded_before() -> None:
    """Parts are kept decoded, and True and 1.0 are equal to 1."""
    part = VALID["parts"][0] | {"layers": [0, 1], "slice_bytes": [1, 1], "held_layers": [], "held_chunks": []}
    part |= {"version_chunks": [], "version_tags": b""}
    fields = VALID | {"parts": [part]}
    assert decode_descriptor(msgpack.packb(fields)).parts[0].slice_bytes == (1, 1)
    for sizes in ([True, 1], [1.0, 1]):
        assert "slice_bytes" in refusal(VALID | {"parts": [part | {"slice_bytes": sizes}]})
    assert "layers" in refusal(VALID | {"parts": [part | {"layers": [0, True]}]})


def test_a_part_too_large_to_be_kept_is_decoded_all_the_same() -> None:
    layers = list(range(4096))
    part = VALID["parts"][0] | {"layers": layers, "slice_bytes": [1 << 20] * len(layers)}
    part |= {"held_layers": [], "held_chunks": [], "version_chunks": [], "version_tags": b""}
    assert decode_descriptor(msgpack.packb(VALID | {"parts": [part]})).parts[0].layers == tuple(layers)


@pytest.mark.parametrize("value", [10**400, -(10**400), math.inf, math.nan, True, "1"])
def test_numbers_that_only_other_encodings_have_are_refused_too(value: object) -> None:
    """As JSON has them."""
    fields = FieldReader({"one": value, "many": [0.5, value, 1]}, "share", RequestError)
    with pytest.raises(RequestError, match="must be a number"):
        fields.number("one", 0, 1e15)
    with pytest.raises(RequestError, match="must be a number"):
        fields.numbers("many", 0, 1e15, 8)
