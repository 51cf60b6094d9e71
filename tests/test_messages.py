"""Bodies of the KV sub-resources: what comes back is what was encoded, and whatever is wrong is named."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.descriptor import MAX_PARTS, HeldChunks
from objectcache.errors import RequestError
from objectcache.layout import PartShape
from objectcache.messages import (
    MAX_COMMIT,
    MAX_CORRECTIONS,
    MAX_METADATA_BYTES,
    CancelAnswer,
    CancelRequest,
    CommitRequest,
    MatchAndRetrieveAnswer,
    MatchAndRetrieveRequest,
    MatchAnswer,
    MatchRequest,
    NixlAnswer,
    NixlRequest,
    ReleaseRequest,
    RetrieveAnswer,
    SessionAnswer,
    SessionRequest,
    StoreRequest,
    WindowsBatch,
)
from tests.fuzzing import HOSTILE, ODD_VALUES, Path, answers_properly, mutated, paths, replaced, without
from tests.golden.wire import MESSAGES

KINDS: dict[str, Any] = {type(message).__name__: type(message) for message in MESSAGES}
VALID: dict[str, Any] = {type(message).__name__: msgpack.unpackb(cast(Any, message).encode()) for message in MESSAGES}
FIELDS = [(kind, path) for kind, fields in VALID.items() for path in paths(fields) if isinstance(path[-1], str)]
TEXTS = {"http_host", "data_host", "shm_socket", "nixl_agent", "agent", "segment", "reason", "gang", "trace"}
NUMBERS = {"ttl_s", "rate_bytes_s", "timeout_s", "ready_in_s", "deadline_s"}
LISTS = {"parts", "commit", "discard", "corrections", "windows_s"}


def refusal(kind: str, fields: object) -> str:
    """Why a message of `kind` with `fields` is refused."""
    with pytest.raises(RequestError) as error:
        KINDS[kind].decode(msgpack.packb(fields))
    return str(error.value)


def test_all_messages_are_tried() -> None:
    kinds = {
        MatchRequest, MatchAnswer, SessionRequest, SessionAnswer, RetrieveAnswer, CancelRequest, CancelAnswer,
        StoreRequest, CommitRequest, ReleaseRequest, WindowsBatch, NixlRequest, NixlAnswer,
        MatchAndRetrieveRequest, MatchAndRetrieveAnswer,
    }  # fmt: skip
    assert set(KINDS.values()) == kinds


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_encoded_is_decoded(message: Any) -> None:
    assert type(message).decode(message.encode()) == message


@given(
    st.text(max_size=1024),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 63),
    st.integers(0, 4095),
    st.integers(0, (1 << 24) - 1),
)
def test_any_store_request(segment: str, key: bytes, group: int, shard: int, first: int) -> None:
    message = StoreRequest(segment, key, group, shard, key[::-1], first, first + 1)
    assert StoreRequest.decode(message.encode()) == message


@given(st.lists(st.text(max_size=50), max_size=20), st.lists(st.text(max_size=50), max_size=20))
def test_any_commit(commit: list[str], discard: list[str]) -> None:
    message = CommitRequest(tuple(commit), tuple(discard))
    assert CommitRequest.decode(message.encode()) == message


@pytest.mark.parametrize(("kind", "path"), FIELDS, ids=str)
def test_a_missing_field_is_named(kind: str, path: Path) -> None:
    message = refusal(kind, without(VALID[kind], path))
    assert "missing" in message
    assert str(path[-1]) in message


@pytest.mark.parametrize(("kind", "path"), FIELDS, ids=str)
def test_a_field_of_another_type_is_named(kind: str, path: Path) -> None:
    name = str(path[-1])
    for value in ODD_VALUES:
        signed = name == "ready_in_s" and value == -1
        absent = name == "rate_bytes_s" and value is None
        number = (name in NUMBERS and isinstance(value, float)) or signed or absent
        if (name in TEXTS and isinstance(value, str)) or (name == "metadata" and isinstance(value, bytes)) or number:
            assert KINDS[kind].decode(msgpack.packb(replaced(VALID[kind], path, value)))
        else:
            message = refusal(kind, replaced(VALID[kind], path, value))
            assert name in message or (name == "keys" and "chunk keys" in message), value


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        *[(kind, ("version",), version) for kind in KINDS for version in (0, 2, 1 << 40)],
        ("MatchRequest", ("namespace",), bytes(31)),
        ("MatchRequest", ("keys",), bytes(33)),
        ("MatchRequest", ("parts",), [{"group": 0, "shard": 0}] * (MAX_PARTS + 1)),
        ("MatchRequest", ("parts", 0, "group"), 64),
        ("MatchRequest", ("parts", 0, "shard"), 4096),
        ("MatchAnswer", ("tokens",), (1 << 40) + 1),
        ("MatchAnswer", ("parts", 0, "stop"), (1 << 24) + 1),
        ("MatchAnswer", ("lease",), bytes(15)),
        ("MatchAnswer", ("ttl_s",), math.nan),
        ("MatchAnswer", ("rate_bytes_s",), math.inf),
        ("MatchAnswer", ("layers_per_unit",), (1 << 20) + 1),
        ("MatchAndRetrieveRequest", ("match", "keys"), bytes(33)),
        ("MatchAndRetrieveRequest", ("target", "session"), b""),
        ("MatchAndRetrieveRequest", ("target", "kind"), "fax"),
        ("MatchAndRetrieveRequest", ("room_bytes",), -1),
        ("MatchAndRetrieveRequest", ("windows_s",), [math.nan]),
        ("MatchAndRetrieveRequest", ("deadline_s",), -1.0),
        ("MatchAndRetrieveAnswer", ("match", "tokens"), (1 << 40) + 1),
        ("MatchAndRetrieveAnswer", ("accepted", 0, "layers_per_unit"), 0),
        ("MatchAndRetrieveAnswer", ("accepted",), [{}, {}]),
        ("SessionRequest", ("streams",), 0),
        ("SessionRequest", ("streams",), (1 << 16) + 1),
        ("SessionAnswer", ("session",), b""),
        ("SessionAnswer", ("http_host",), "h" * 257),
        ("SessionAnswer", ("http_port",), 0),
        ("SessionAnswer", ("data_port",), 65536),
        ("SessionAnswer", ("shm_socket",), "s" * 101),
        ("SessionAnswer", ("nixl_agent",), "n" * 101),
        ("NixlRequest", ("session",), bytes(15)),
        ("NixlRequest", ("metadata",), b""),
        ("NixlRequest", ("metadata",), bytes(MAX_METADATA_BYTES + 1)),
        ("NixlRequest", ("address",), 0),
        ("NixlRequest", ("address",), (1 << 64) - 1),
        ("NixlRequest", ("size_bytes",), 0),
        ("NixlRequest", ("memory",), "TAPE"),
        ("NixlRequest", ("device",), -1),
        ("NixlAnswer", ("agent",), "n" * 101),
        ("RetrieveAnswer", ("layers_per_unit",), 0),
        ("RetrieveAnswer", ("payload_bytes",), (1 << 50) + 1),
        ("CancelRequest", ("session",), bytes(17)),
        ("CancelRequest", ("delivery",), -1),
        ("CancelRequest", ("epoch",), 1 << 32),
        ("CancelRequest", ("timeout_s",), 61.0),
        ("CancelRequest", ("timeout_s",), math.nan),
        ("CancelAnswer", ("quiet",), 2),
        ("StoreRequest", ("segment",), "s" * 1025),
        ("StoreRequest", ("namespace",), bytes(33)),
        ("StoreRequest", ("group",), 64),
        ("StoreRequest", ("shard",), 4096),
        ("StoreRequest", ("leaf",), bytes(16)),
        ("StoreRequest", ("stop",), (1 << 24) + 1),
        ("CommitRequest", ("commit",), ["x"] * (MAX_COMMIT + 1)),
        ("CommitRequest", ("commit", 0), 7),
        ("CommitRequest", ("discard", 0), b"bytes"),
        ("ReleaseRequest", ("lease",), b""),
        ("RetrieveAnswer", ("rate_bytes_s",), -1.0),
        ("WindowsBatch", ("corrections",), [{}] * (MAX_CORRECTIONS + 1)),
        ("WindowsBatch", ("corrections", 0, "session"), bytes(15)),
        ("WindowsBatch", ("corrections", 0, "windows_s"), [-0.1]),
        ("WindowsBatch", ("corrections", 0, "windows_s"), [math.inf]),
        ("WindowsBatch", ("corrections", 0, "ready_in_s"), math.nan),
        ("WindowsBatch", ("corrections", 0, "ready_in_s"), 3601.0),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_value_out_of_range_is_named(kind: str, path: Path, wrong: object) -> None:
    field = next(name for name in reversed(path) if isinstance(name, str))
    message = refusal(kind, replaced(VALID[kind], path, wrong))
    too_many = isinstance(wrong, list) and len(wrong) > MAX_COMMIT  # refused before it is known what it is
    assert "max_array_len" in message if too_many else field in message or "chunk keys" in message


@pytest.mark.parametrize(("first", "stop"), [(3, 3), (4, 3), (0, 0)])
def test_a_store_request_needs_a_range(first: int, stop: int) -> None:
    assert f"[{first}, {stop})" in refusal("StoreRequest", {**VALID["StoreRequest"], "first": first, "stop": stop})


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused_quickly(data: bytes) -> None:
    for kind, message in KINDS.items():
        assert answers_properly(message.decode, data), kind


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200))
def test_any_bytes(kind: str, data: bytes) -> None:
    assert answers_properly(KINDS[kind].decode, data)


@given(st.data())
def test_nearly_right_is_refused_or_means_what_it_says(data: st.DataObject) -> None:
    message: Any = data.draw(st.sampled_from(MESSAGES))
    encoded = data.draw(mutated(message.encode()))
    decode = type(message).decode
    if answers_properly(decode, encoded) is None:
        assert decode(decode(encoded).encode()) == decode(encoded)


def test_a_header_leaves_out_versions_that_are_too_long() -> None:
    match = MatchAnswer(160, ((0, 0, 0, 10),), bytes(16), 60.0)
    accepted = RetrieveAnswer(2, 1 << 20, (((1, bytes(8)),) * 1000,), None, "size")
    for versions in (accepted.versions[:1], ()):
        short = replace(accepted, versions=versions and (versions[0][:3],))
        answer = MatchAndRetrieveAnswer(match, short)
        assert MatchAndRetrieveAnswer.from_header(answer.to_header()) == answer
    told = MatchAndRetrieveAnswer.from_header(MatchAndRetrieveAnswer(match, accepted).to_header())
    assert told == MatchAndRetrieveAnswer(match, replace(accepted, versions=()))


HELD = HeldChunks(1, 2, 3, ((6, 2), (5, 3)), ((1, b"8 bytes "), (2, b"of a tag")))
WITH_HELD = replace(next(m for m in MESSAGES if isinstance(m, MatchAndRetrieveRequest)), held=(HELD,))


def test_what_is_held_is_optional_on_the_wire() -> None:
    """Old clients do not say it, and old gateways neither read nor answer it."""
    without_it = replace(WITH_HELD, held=())
    assert "held" not in msgpack.unpackb(without_it.encode())
    assert MatchAndRetrieveRequest.decode(WITH_HELD.encode()) == WITH_HELD
    answer = next(m for m in MESSAGES if isinstance(m, MatchAndRetrieveAnswer))
    assert not answer.held
    assert "held" not in msgpack.unpackb(answer.encode())
    told = replace(answer, held=True)
    assert MatchAndRetrieveAnswer.decode(told.encode()) == MatchAndRetrieveAnswer.from_header(told.to_header()) == told


def test_how_much_is_wanted_is_optional_on_the_wire() -> None:
    wanted = replace(WITH_HELD, most_tokens=48)
    assert "most_tokens" not in msgpack.unpackb(WITH_HELD.encode())
    assert MatchAndRetrieveRequest.decode(wanted.encode()) == wanted
    for wrong in (0, -1, "48", 1 << 63, None):
        fields = msgpack.unpackb(wanted.encode())
        assert "most_tokens" in refusal("MatchAndRetrieveRequest", replaced(fields, ("most_tokens",), wrong))
    answer = next(m for m in MESSAGES if isinstance(m, MatchAndRetrieveAnswer))
    assert not answer.bounded
    assert "bounded" not in msgpack.unpackb(answer.encode())
    told = replace(answer, bounded=True)
    assert MatchAndRetrieveAnswer.decode(told.encode()) == MatchAndRetrieveAnswer.from_header(told.to_header()) == told


@pytest.mark.parametrize(
    ("path", "wrong", "named"),
    [
        ((), None, "held"),
        ((), [7], "held[0]"),
        ((), [HELD.to_map()] * 2, "twice"),
        ((), [{}] * (MAX_PARTS + 1), "held"),
        ((0, "group"), 64, "group"),
        ((0, "shard"), -1, "shard"),
        ((0, "first"), (1 << 24) + 1, "first"),
        ((0, "held_layers"), [6], "held_layers"),
        ((0, "held_layers"), [5, 6], "held_layers"),
        ((0, "held_layers"), [1] * 65, "held_layers"),
        ((0, "held_chunks"), [3, 3], "held_chunks"),
        ((0, "held_chunks"), [0, 3], "held_chunks"),
        ((0, "version_chunks"), [1, 3], "version_chunks"),
        ((0, "version_chunks"), [3], "version_tags"),
        ((0, "version_tags"), b"", "version_tags"),
    ],
)
def test_what_is_held_must_make_sense(path: Path, wrong: object, named: str) -> None:
    fields = msgpack.unpackb(WITH_HELD.encode())
    assert named in refusal("MatchAndRetrieveRequest", replaced(fields, ("held", *path), wrong))


def test_nothing_held_is_not_said() -> None:
    nothing = {"held_layers": [], "held_chunks": [], "version_chunks": [], "version_tags": b""}
    fields = msgpack.unpackb(WITH_HELD.encode())
    fields["held"][0] |= nothing
    assert "held_layers" in refusal("MatchAndRetrieveRequest", fields)


@given(st.data())
def test_nearly_right_with_what_is_held(data: st.DataObject) -> None:
    encoded = data.draw(mutated(WITH_HELD.encode()))
    answers_properly(MatchAndRetrieveRequest.decode, encoded)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4), st.integers(1, 30), st.data())
def test_what_is_held_of_less(steps: list[tuple[int, int]], chunks: int, data: st.DataObject) -> None:
    """Layer by layer it is the lesser of both, and it stays what a request may say."""
    layers = [sum(step[0] for step in steps[i:]) for i in range(len(steps))]
    counts = [sum(step[1] for step in steps[: i + 1]) for i in range(len(steps))]
    versions = tuple((1, bytes([i % 3]) * 8) for i in range(counts[-1]))
    held = HeldChunks(0, 0, 0, tuple(zip(layers, counts, strict=True)), versions)
    whole = PartShape(tuple(range(layers[0] + 1)), (1,) * (layers[0] + 1), counts[-1], held.held)
    less = held.shortened(chunks)
    shape = PartShape(whole.layers, whole.slice_bytes, min(chunks, counts[-1]), less.held)
    for layer in whole.layers:
        assert shape.held_chunks(layer) == min(chunks, whole.held_chunks(layer))
    assert less.versions == versions[:chunks]
    request = replace(WITH_HELD, held=(less,))
    assert MatchAndRetrieveRequest.decode(request.encode()) == request
