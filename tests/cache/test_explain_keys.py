"""Why a chunk that is known by its key alone does not match."""

from __future__ import annotations

from pathlib import Path

import pytest

from objectcache import PartId, chain_keys
from objectcache.cache.explain import Reason, WhyRequest, open_explainer
from objectcache.errors import RequestError
from tests.cache.explaining import FULL, World, flat_layout, hybrid_layout, namespace_of, prompt


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


def test_a_key_that_matches(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(6), cuts=(0, 2, 5, 6))
    found = world.why_key(chain_keys(namespace, prompt(6))[4].hex()[:8])
    assert (found.reason, found.matched_tokens, found.asked_tokens) == (Reason.ALL_MATCHED, 20, 20)


def test_a_key_behind_a_gap(world: World) -> None:
    namespace = namespace_of()
    names = world.store(namespace, prompt(9), cuts=(0, 3, 6, 9))
    world.remove(names[1])
    chain = chain_keys(namespace, prompt(9))
    behind = world.why_key(chain[8])
    assert (behind.reason, behind.chunk, behind.matched_tokens) == (Reason.GAP, 5, None)
    assert "it is missing (evicted or expired), while chunks after it are stored" in behind.sentence
    assert names[1] in behind.notes[0]
    missing = world.why_key(chain[5])
    assert (missing.reason, missing.chunk, missing.asked_tokens) == (Reason.GAP, 5, 24)
    assert names[2] in missing.sentence


def test_a_key_of_one_shard_only(world: World) -> None:
    namespace = namespace_of(flat_layout(shards=2))
    world.store(namespace, prompt(4), part=PartId(0, 1))
    found = world.why_key(chain_keys(namespace, prompt(4))[3])
    assert (found.reason, found.matched_tokens) == (Reason.SHARD_LACKS, 0)
    assert "shard 0 of group full (layers 0-1, part 1 of 2) lacks" in found.sentence


def test_a_key_that_only_larger_chunks_have(world: World) -> None:
    namespace = namespace_of(hybrid_layout())
    world.store(namespace, prompt(4), part=PartId(2, 0))
    found = world.why_key(chain_keys(namespace, prompt(4))[3])
    assert (found.reason, found.matched_tokens, found.chunk) == (Reason.SHARD_LACKS, None, 3)
    assert "held only by group state" in found.sentence


def test_a_key_in_an_upload_that_was_never_committed(world: World) -> None:
    namespace = namespace_of()
    ticket = world.upload(namespace, prompt(4), 0, 4, FULL, commit=False)
    found = world.why_key(chain_keys(namespace, prompt(4))[2])
    assert (found.reason, found.chunk, found.asked_tokens) == (Reason.UNCOMMITTED, 2, 12)
    assert ticket.header.name in found.sentence


def test_a_key_behind_an_upload_that_was_never_committed(world: World) -> None:
    namespace = namespace_of()
    ticket = world.upload(namespace, prompt(4), 0, 2, FULL, commit=False)
    world.store(namespace, prompt(4), cuts=(2, 4))
    found = world.why_key(chain_keys(namespace, prompt(4))[3])
    assert (found.reason, found.chunk) == (Reason.UNCOMMITTED, 1)
    assert ticket.header.name in found.sentence


def test_a_key_whose_segment_cannot_be_read(world: World) -> None:
    namespace = namespace_of()
    names = world.store(namespace, prompt(4), cuts=(0, 2, 4))
    world.object_path(names[0]).unlink()
    found = world.why_key(chain_keys(namespace, prompt(4))[3])
    assert (found.reason, found.chunk) == (Reason.GAP, 1)
    assert f"segment {names[0]} holds it, but cannot be read" in found.sentence


def test_a_key_that_nobody_knows(world: World) -> None:
    namespace = namespace_of()
    (name,) = world.store(namespace, prompt(4))
    unknown = world.why_key("00" * 32)
    assert (unknown.reason, unknown.matched_tokens, unknown.notes) == (Reason.KEY_UNKNOWN, None, ())
    world.remove(name)
    evicted = world.why_key(chain_keys(namespace, prompt(4))[1])
    assert evicted.reason is Reason.KEY_UNKNOWN
    assert name in evicted.notes[0]


def test_what_is_no_key(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(4))
    with pytest.raises(RequestError, match="a namespace's digest"):
        world.why_key(namespace.digest)
    for text in ("0123456", "xyz" * 10, "0" * 65):
        with pytest.raises(RequestError, match="neither a key nor a digest"):
            world.why_key(text)
    with open_explainer(world.root) as explainer, pytest.raises(RequestError, match="either a key"):
        explainer.why(WhyRequest())
