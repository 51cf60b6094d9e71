"""Why something does not match: every reason, by a cache that is in that state."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from objectcache import Namespace, PartId, chain_keys, salt_digest
from objectcache.cache.explain import Explainer, Reason, WhyRequest
from objectcache.catalog import Catalog
from objectcache.errors import NamespaceMismatchError, RequestError
from objectcache.names import namespace_name
from objectcache.stores import FileStore
from tests.cache.explaining import CHUNK, FULL, World, flat_layout, hybrid_layout, namespace_of, prompt

SHARD_1, WINDOW, STATE = PartId(0, 1), PartId(1, 0), PartId(2, 0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


# -- a prompt -----------------------------------------------------------------------------------------


def test_all_matched(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(6), cuts=(0, 2, 6))
    found = world.why(namespace, [*prompt(6), 9])
    assert found.reason is Reason.ALL_MATCHED
    assert found.chunk is None
    assert found.notes == ("the last 1 token fill no whole chunk: they have no key",)
    assert [(part.stored, part.alone_tokens) for part in found.parts] == [(((0, 6),), 24)]


def test_a_prompt_shorter_than_a_chunk(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(1))
    assert world.why(namespace, [1, 2, 3]).reason is Reason.TOO_SHORT


def test_the_stored_prefix_ends(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(4), cuts=(0, 3, 4))
    found = world.why(namespace, prompt(7))
    assert (found.reason, found.chunk, found.chunk_tokens) == (Reason.ENDS, 4, CHUNK)
    assert "stops at chunk 4 (tokens 16 to 19) because the stored prefix ends there" in found.sentence


@pytest.mark.parametrize("cuts", [(0, 6), (0, 4, 6)], ids=["within a segment", "between segments"])
def test_a_branch(world: World, cuts: tuple[int, ...]) -> None:
    namespace = namespace_of()
    names = world.store(namespace, prompt(6), cuts=cuts)
    found = world.why(namespace, prompt(8, other_from=4))
    assert (found.reason, found.chunk) == (Reason.BRANCH, 4)
    assert names[-1] in found.sentence


def test_nothing_stored_for_the_first_chunk(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(4))
    world.store(namespace, prompt(4, other_from=2), cuts=(2, 4))
    found = world.why(namespace, prompt(4, other_from=0))
    assert (found.reason, found.chunk, found.matched_tokens) == (Reason.NOTHING_STORED, 0, 0)
    assert "1 other prompt begins with other tokens in this namespace" in found.sentence
    assert found.neighbours == ()


def test_a_gap_and_who_made_it(world: World) -> None:
    namespace = namespace_of()
    names = world.store(namespace, prompt(9), cuts=(0, 3, 6, 9))
    world.remove(names[1])
    found = world.why(namespace, prompt(9))
    assert (found.reason, found.chunk, found.matched_tokens) == (Reason.GAP, 3, 12)
    assert "chunks 3 to 5 are missing (evicted or expired), while chunk 6 and more are stored" in found.sentence
    assert [names[1] in note and "removed" in note for note in found.notes] == [True]
    assert found.parts[0].stored == ((0, 3), (6, 9))


def test_a_gap_at_the_start(world: World) -> None:
    namespace = namespace_of()
    names = world.store(namespace, prompt(4), cuts=(0, 1, 4))
    world.remove(names[0])
    found = world.why(namespace, prompt(4))
    assert (found.reason, found.chunk) == (Reason.GAP, 0)
    assert "chunk 0 is missing" in found.sentence


def test_a_shard_that_lacks_what_others_have(world: World) -> None:
    namespace = namespace_of(flat_layout(shards=3))
    world.store(namespace, prompt(8), cuts=(0, 6))
    world.store(namespace, prompt(8), cuts=(0, 3), part=SHARD_1)
    world.store(namespace, prompt(8), part=PartId(0, 2))
    found = world.why(namespace, prompt(8))
    assert (found.reason, found.chunk, found.matched_tokens) == (Reason.SHARD_LACKS, 3, 12)
    assert "shard 1 of group full (layers 0-1, part 2 of 3) lacks what others have: chunks 3 to 5" in found.sentence
    assert [part.alone_tokens for part in found.parts] == [24, 12, 32]


def test_of_shards_that_lack_different_chunks_the_first_counts(world: World) -> None:
    """The boundary is two chunks: both shards stop before it, and only one at its first chunk."""
    namespace = namespace_of(hybrid_layout())
    for part, stop in ((FULL, 3), (SHARD_1, 2), (WINDOW, 4), (STATE, 2)):
        world.store(namespace, prompt(4), cuts=(0, stop), part=part)
    found = world.why(namespace, prompt(4))
    assert (found.reason, found.chunk, found.matched_tokens) == (Reason.SHARD_LACKS, 2, 8)
    assert "because shard 1 of group full (layer 0, part 2 of 2) lacks what others have: chunk 2" in found.sentence


def test_an_upload_that_was_never_committed(world: World) -> None:
    namespace = namespace_of(flat_layout(shards=2))
    world.store(namespace, prompt(4))
    ticket = world.upload(namespace, prompt(4), 0, 4, SHARD_1, commit=False)
    found = world.why(namespace, prompt(4))
    assert (found.reason, found.chunk) == (Reason.UNCOMMITTED, 0)
    assert ticket.header.name in found.sentence
    assert "shard 1 of group full" in found.sentence


def test_an_object_whose_removal_failed_is_no_upload_that_waits(world: World) -> None:
    namespace = namespace_of()
    (name,) = world.store(namespace, prompt(4))
    path = world.object_path(name)
    data = path.read_bytes()
    world.remove(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    found = world.why(namespace, prompt(4))
    assert found.reason is Reason.NOTHING_STORED
    assert name in found.notes[0]


def _store_hybrid(world: World, namespace: Namespace, chunks: int) -> None:
    for part in (FULL, SHARD_1):
        world.store(namespace, prompt(chunks), part=part)


def test_a_window_that_is_broken(world: World) -> None:
    namespace = namespace_of(hybrid_layout())
    _store_hybrid(world, namespace, 8)
    world.store(namespace, prompt(8), part=STATE)
    names = world.store(namespace, prompt(8), cuts=(0, 6, 7, 8), part=WINDOW)
    world.remove(names[1])
    found = world.why(namespace, prompt(8))
    assert (found.reason, found.chunk, found.matched_tokens) == (Reason.RULE, 6, 24)
    assert "group window (window) needs chunks 6 to 7 to go on at token 32" in found.sentence
    assert "the farthest boundary at which it is whole is token 24" in found.sentence


def test_a_state_that_was_not_stored(world: World) -> None:
    namespace = namespace_of(hybrid_layout())
    _store_hybrid(world, namespace, 8)
    world.store(namespace, prompt(8), part=WINDOW)
    world.store(namespace, prompt(8), cuts=(0, 1), part=STATE)
    found = world.why(namespace, prompt(8))
    assert (found.reason, found.matched_tokens, found.chunk_tokens) == (Reason.RULE, 8, 2 * CHUNK)
    assert "group state (state) needs chunk 3 to go on at token 32" in found.sentence
    assert {part.group: part.alone_tokens for part in found.parts} == {"full": 32, "window": 32, "state": 8}


def test_a_gap_is_told_before_a_rule(world: World) -> None:
    namespace = namespace_of(hybrid_layout())
    for part in (FULL, SHARD_1, WINDOW):
        names = world.store(namespace, prompt(8), cuts=(0, 3, 4, 8), part=part)
        world.remove(names[1])
    world.store(namespace, prompt(8), part=STATE)
    found = world.why(namespace, prompt(8))
    assert (found.reason, found.chunk, found.matched_tokens) == (Reason.GAP, 3, 8)


def test_what_the_catalog_has_and_the_store_lost(world: World) -> None:
    namespace = namespace_of()
    names = world.store(namespace, prompt(4), cuts=(0, 2, 4))
    world.object_path(names[1]).unlink()
    found = world.why(namespace, prompt(4))
    assert found.reason is Reason.ALL_MATCHED
    assert [names[1] in note and "gone from the store" in note for note in found.notes] == [True]


# -- namespaces ---------------------------------------------------------------------------------------


def test_another_epoch(world: World) -> None:
    stored = namespace_of(epoch=3)
    world.store(stored, prompt(4))
    found = world.why(namespace_of(epoch=4), prompt(4))
    assert (found.reason, found.matched_tokens) == (Reason.NAMESPACE_UNKNOWN, 0)
    assert "differs in epoch (4 asked for, 3 stored)" in found.sentence
    assert "epoch is bumped" in found.next_step
    (near,) = found.neighbours
    assert [(item.field, item.asked, item.stored) for item in near.differences] == [("epoch", "4", "3")]
    assert near.matched_tokens == 16


def test_a_salt_differs_and_is_not_shown(world: World) -> None:
    salts = {tenant: salt_digest(tenant) for tenant in ("alice", "bob")}
    world.store(namespace_of(salt_sha256=salts["alice"]), prompt(4))
    for asked, said in ((salts["bob"], ("set", "another")), ("", ("none", "set"))):
        found = world.why(namespace_of(salt_sha256=asked), prompt(4))
        (difference,) = found.neighbours[0].differences
        assert (difference.field, difference.asked, difference.stored) == ("salt", *said)
        assert not any(salt[:8] in str(found) for salt in salts.values())


def test_the_nearest_namespaces_come_first(world: World) -> None:
    world.store(namespace_of(kv_dtype="fp8", epoch=1), prompt(2))
    world.store(namespace_of(flat_layout(shards=2), extra={"rope": "yarn"}), prompt(2))
    world.store(namespace_of(kv_dtype="fp8"), prompt(2))
    near = world.why(namespace_of(), prompt(2)).neighbours
    assert [[item.field for item in other.differences] for other in near] == [
        ["kv_dtype"],
        ["kv_dtype", "epoch"],
        ["extra.rope", "layout.full.shards"],
    ]
    assert [(item.asked, item.stored) for item in near[2].differences] == [*(("(absent)", "yarn"), ("1", "2"))]


def test_a_namespace_that_was_just_begun_says_where_the_prompt_is(world: World) -> None:
    old, new = namespace_of(epoch=1), namespace_of(epoch=2)
    world.store(old, prompt(4))
    world.store(new, prompt(4, other_from=0))
    found = world.why(new, prompt(4))
    assert found.reason is Reason.NOTHING_STORED
    assert found.notes[0].startswith("16 of its tokens match in namespace ")
    assert found.notes[0].endswith("differs in epoch")


def test_a_namespace_by_its_digest(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(2))
    assert world.why(namespace.digest.hex()[:8], prompt(2)).reason is Reason.ALL_MATCHED
    unknown = world.why("0123456789abcdef", prompt(2))
    assert unknown.reason is Reason.NAMESPACE_UNKNOWN
    assert unknown.notes == (f"known here: {namespace.digest.hex()[:16]}",)


def test_keys_that_do_not_come_from_tokens(world: World) -> None:
    namespace = namespace_of(hash_algorithm="sha256_cbor")
    world.store(namespace, prompt(2))
    with pytest.raises(RequestError, match="block hashes"):
        world.why(namespace, prompt(2))


def test_a_description_that_is_gone(world: World) -> None:
    namespace = namespace_of()
    world.store(namespace, prompt(2))
    world.object_path(namespace_name(namespace.digest).removesuffix(".json") + "%2Ejson").unlink()
    shutil.rmtree(world.root / "catalog")
    with pytest.raises(NamespaceMismatchError, match="gone or damaged"):
        world.why(namespace.digest.hex()[:8], prompt(2))
    found = world.why_key(chain_keys(namespace, prompt(2))[1])
    assert found.reason is Reason.NAMESPACE_UNKNOWN
    assert "gone or damaged" in found.sentence


def test_over_the_network_a_salted_namespace_is_its_tenants_to_ask_about(world: World) -> None:
    salted, plain = namespace_of(salt_sha256=salt_digest("alice")), namespace_of()
    world.store(salted, prompt(4))
    world.store(plain, prompt(4, other_from=0))
    digest = salted.digest.hex()
    with FileStore(world.root / "objects") as store, Catalog.open(world.root / "catalog", readonly=True) as catalog:
        explainer = Explainer(store, catalog, salted_by_prefix=False)
        with pytest.raises(RequestError, match="salted"):
            explainer.why(WhyRequest(namespace=digest[:16], tokens=tuple(prompt(4))))
        for known in (digest, salted.to_json().decode()):
            assert explainer.why(WhyRequest(namespace=known, tokens=tuple(prompt(4)))).reason is Reason.ALL_MATCHED
        found = explainer.why(WhyRequest(namespace=plain.digest.hex(), tokens=tuple(prompt(4))))
        assert [near.matched_tokens for near in found.neighbours] == [None]
