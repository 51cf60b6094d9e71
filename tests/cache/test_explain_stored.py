"""What is stored: listings, and single things looked at closely."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from objectcache import PartId, chain_keys, salt_digest
from objectcache.cache.explain import (
    InspectRequest,
    KeyInspection,
    ListRequest,
    NamespaceInspection,
    SegmentInspection,
    VerifyRequest,
    inspecting,
    open_explainer,
)
from objectcache.errors import (
    InvalidObjectNameError,
    KeyNotFoundError,
    NamespaceMismatchError,
    RequestError,
)
from tests.cache.explaining import FULL, World, flat_layout, hybrid_layout, namespace_of, prompt


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


def inspect(world: World, what: str) -> Any:
    with open_explainer(world.root) as explainer:
        return explainer.inspect(InspectRequest(what))


# -- listings -----------------------------------------------------------------------------------------


def test_namespaces_and_what_is_stored_of_each(world: World) -> None:
    small, large = (
        namespace_of(epoch=7, adapter="lora"),
        namespace_of(flat_layout(shards=2), salt_sha256=salt_digest("x")),
    )
    begin_s = time.time()
    world.store(small, prompt(2))
    world.store(large, prompt(6), cuts=(0, 2, 6))
    world.store(large, prompt(6), part=PartId(0, 1))
    with open_explainer(world.root) as explainer:
        listing = explainer.list(ListRequest())
        only = explainer.list(ListRequest(namespace=small.digest.hex()[:12]))
    first, second = listing.namespaces
    assert (first.digest, first.salted, first.segments, first.chunks, first.tokens) == (
        *(large.digest.hex()[:16], True),
        *(3, 12, 24),
    )
    assert (second.epoch, second.adapter, second.salted, second.tokens, second.model) == (
        *(7, "lora", False, 8),
        "sha256:weights",
    )
    assert first.layout == "2 layers full attention in 2 shards, chunks of 4; 0.0625 KiB a token"
    assert first.last_used_s is not None
    assert begin_s <= first.last_used_s <= time.time()
    assert (listing.total_segments, listing.total_chunks, listing.segments) == (4, 14, ())
    assert listing.total_bytes == first.total_bytes + second.total_bytes <= listing.store_used_bytes
    assert only.namespaces == (second,)


def test_a_state_does_not_count_as_tokens(world: World) -> None:
    namespace = namespace_of(hybrid_layout())
    world.store(namespace, prompt(4))
    world.store(namespace, prompt(8), part=PartId(2, 0))
    with open_explainer(world.root) as explainer:
        (info,) = explainer.list(ListRequest()).namespaces
    assert (info.chunks, info.tokens) == (8, 16)


def test_segments_up_to_a_limit(world: World) -> None:
    namespace = namespace_of()
    names = world.store(namespace, prompt(6), cuts=(0, 1, 3, 6))
    with open_explainer(world.root) as explainer:
        some = explainer.list(ListRequest(segments=True, limit=2))
        every = explainer.list(ListRequest(segments=True, limit=0))
    assert ([item.name for item in some.segments], some.segments_left_out) == (names[:2], 1)
    assert ([item.name for item in every.segments], every.segments_left_out) == (names, 0)
    chain = chain_keys(namespace, prompt(6))
    last = every.segments[2]
    assert (last.group, last.shard, last.first_chunk, last.stop_chunk, last.first_token, last.stop_token) == (
        *("full", 0, 3, 6),
        *(12, 24),
    )
    assert (last.parent, last.leaf) == (chain[2].hex()[:16], chain[5].hex()[:16])
    assert every.segments[0].parent == namespace.digest.hex()[:16]


def test_a_namespace_without_segments_is_listed(world: World) -> None:
    world.upload(namespace_of(), prompt(2), 0, 2, FULL, commit=False)
    with open_explainer(world.root) as explainer:
        (info,) = explainer.list(ListRequest()).namespaces
        with pytest.raises(NamespaceMismatchError, match="no namespace here begins with 00000000"):
            explainer.list(ListRequest(namespace="00000000"))
    assert (info.segments, info.last_used_s) == (0, None)


# -- one thing ----------------------------------------------------------------------------------------


def test_a_namespace_is_readable_but_for_its_salt(world: World) -> None:
    namespace = namespace_of(hybrid_layout(), salt_sha256=salt_digest("alice"), extra={"rope": "yarn"})
    world.store(namespace, prompt(4))
    found = inspect(world, namespace.digest.hex()[:8])
    assert isinstance(found, NamespaceInspection)
    assert found.fields["salt"] == "set"
    assert (found.fields["extra.rope"], found.fields["kv_dtype"]) == ("yarn", "bfloat16")
    assert salt_digest("alice")[:8] not in str(found)
    assert [(group.name, group.rule, group.window_tokens, len(group.shards)) for group in found.groups] == [
        *(("full", "prefix", 0, 2), ("window", "window", 8, 1), ("state", "state", 0, 1))
    ]


def test_a_key_its_holders_and_the_chain_before_it(world: World) -> None:
    namespace = namespace_of(flat_layout(shards=2))
    names = world.store(namespace, prompt(6), cuts=(0, 2, 6))
    others = world.store(namespace, prompt(6), cuts=(0, 3, 6), part=PartId(0, 1))
    world.remove(others[0])
    key = chain_keys(namespace, prompt(6))[3]
    found = inspect(world, key.hex()[:10])
    assert isinstance(found, KeyInspection)
    assert (found.key, found.stop_token) == (key.hex()[:16], 16)
    assert [(held.segment, held.shard, held.index) for held in found.holders] == [(names[1], 0, 1), (others[1], 1, 0)]
    whole, broken = found.chains
    assert [(run.segment, run.first_chunk, run.stop_chunk) for run in whole.runs] == [
        (names[0], 0, 2),
        (names[1], 2, 4),
    ]
    assert (whole.missing_chunk, whole.missing_key) == (None, "")
    assert [(run.segment, run.first_chunk, run.stop_chunk) for run in broken.runs] == [(others[1], 3, 4)]
    assert broken.missing_chunk == 2
    assert broken.missing_key == chain_keys(namespace, prompt(6))[2].hex()[:16]


def test_a_segment_header_and_layers(world: World) -> None:
    namespace = namespace_of()
    (name,) = world.store(namespace, prompt(6))
    found = inspect(world, name.removeprefix(".kv/seg/"))
    assert isinstance(found, SegmentInspection)
    assert (found.visible, found.problem, found.segment.name) == (True, "", name)
    assert found.object_bytes == found.segment.total_bytes == world.object_path(name).stat().st_size
    assert [(layer.layer, layer.slice_bytes, layer.layer_bytes) for layer in found.layers] == [
        *((0, 64, 384), (1, 64, 384))
    ]
    data = world.object_path(name).read_bytes()
    for layer in found.layers:
        assert layer.row_offset + layer.row_bytes == layer.data_offset
        assert data[layer.data_offset : layer.data_offset + layer.layer_bytes] == bytes([layer.layer + 1]) * 384


def test_a_segment_that_is_not_visible(world: World) -> None:
    ticket = world.upload(namespace_of(), prompt(2), 0, 2, FULL, commit=False)
    found = inspect(world, ticket.header.name)
    assert (found.visible, found.problem) == (False, "")


def test_segments_with_problems(world: World) -> None:
    names = world.store(namespace_of(), prompt(8), cuts=(0, 2, 4, 6, 8))
    torn, gone, swapped, longer = map(world.object_path, names)
    longer.write_bytes(longer.read_bytes() + b"\0")
    torn.write_bytes(torn.read_bytes()[:-1])
    swapped.write_bytes(gone.read_bytes())
    gone.unlink()
    assert "torn" in inspect(world, names[0]).problem or "cut short" in inspect(world, names[0]).problem
    lost = inspect(world, names[1])
    assert (lost.visible, lost.object_bytes) == (True, None)
    assert "gone from the store" in lost.problem
    assert f"holds segment {names[1]}" in inspect(world, names[2]).problem
    assert "its header says" in inspect(world, names[3]).problem


def test_verifying_reads_every_byte(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "READ_BYTES", 2 * 64)  # several reads a layer
    (name,) = world.store(namespace_of(), prompt(6))
    layers = inspect(world, name).layers
    path = world.object_path(name)
    whole = path.read_bytes()

    def verdicts() -> list[str]:
        with open_explainer(world.root) as explainer:
            return [explainer.verify(VerifyRequest(name, position)).problem for position in (0, 1)]

    assert verdicts() == ["", ""]
    for at in (layers[1].data_offset, layers[1].data_offset + 383, layers[1].row_offset):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        first, second = verdicts()
        assert first == ""
        assert "committed" in second
    path.write_bytes(whole[:-1])
    assert all(verdicts())
    path.write_bytes(whole)
    with open_explainer(world.root) as explainer, pytest.raises(RequestError, match="none at position 2"):
        explainer.verify(VerifyRequest(name, 2))


def test_what_cannot_be_inspected(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(200))
    with pytest.raises(KeyNotFoundError, match="neither a namespace nor a stored chunk begins with 00000000"):
        inspect(world, "00000000")
    with pytest.raises(KeyNotFoundError, match="no segment"):
        inspect(world, "w/000/000/000/001")
    with pytest.raises(InvalidObjectNameError):
        inspect(world, "w/1")
    monkeypatch.setattr(inspecting, "check_digits", lambda text: text)
    with pytest.raises(RequestError, match="give more digits"):
        inspect(world, namespace.digest.hex()[:1])
