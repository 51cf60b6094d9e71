"""Merges: what readers see before, meanwhile and after; and what of them is left when something goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from objectcache.cache import PartId, RetrieveOptions
from objectcache.cache.local import LocalCache
from objectcache.cache.merging.merger import Begun, Merger
from objectcache.errors import KeyNotFoundError, StoreFullError, StoreUnavailableError
from objectcache.joining import join
from objectcache.keys import KeyChain
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule
from objectcache.names import LOG_PREFIX, SEGMENT_PREFIX
from objectcache.stores import FileStore, MemoryStore
from objectcache.testing.far import LatencyStore
from objectcache.testing.synthetic import (
    check_delivery,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)
from tests.cache.merging.worlds import LAYOUT, LIMITS, TURN_CHUNKS, World, merge_all, visible

TURNS = 16


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack, stack.enter_context(FileStore(tmp_path / "objects")))


def only_run(merger: Merger) -> Begun:
    (run,) = merger.find_all().runs
    begun = merger.begin(run)
    assert begun is not None
    return begun


def join_to_the_end(cache: LocalCache, merger: Merger) -> Begun:
    """A merge whose upload is whole, and not committed."""
    begun = only_run(merger)
    joined = join(cache.core.store, begun.order)
    assert joined.header.total_bytes == begun.size_bytes, "so much room was made"
    return begun


def test_a_conversation_becomes_one_range_a_layer(world: World) -> None:
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    assert world.matched(cache, chain) == len(chain)
    assert cache.reads.ranges_per_layer == TURNS
    merger = Merger(cache.core, LIMITS)
    findings = merger.find()
    assert [len(run) for run in findings.runs] == [TURNS], "what was matched in many segments is due"
    assert not merger.find().runs, "once"
    assert merger.merge(findings.runs[0])
    assert len(visible(cache)) == 1
    layers = cache.reads.layers
    ranges = cache.reads.ranges
    assert world.matched(cache, chain) == len(chain)
    assert (cache.reads.ranges - ranges) / (cache.reads.layers - layers) == 1
    for length in (1, TURN_CHUNKS, 7, len(chain) - 1):
        assert world.matched(cache, chain[:length]) == length, "and each prefix of it"
    assert cache.merges.merged == 1
    assert cache.merges.segments == TURNS
    assert cache.merges.bytes_rewritten > len(chain) * sum(LAYOUT.shard(0, 0).slice_bytes)


def test_what_follows_and_branches_off_goes_on(world: World) -> None:
    """From a chunk in the middle of what became one segment, and from its end."""
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    branch = KeyChain(chain[:9].data + prompt(world.namespace, 6, seed=7).data)
    longer = KeyChain(chain.data + prompt(world.namespace, 6, seed=8).data)
    for asked, known in ((branch, 9), (longer, len(chain))):
        cache.commit([upload_part(cache, world.namespace, asked, first=known, stop=known + 2)])
    assert merge_all(cache) == 1
    for asked, known in ((branch, 11), (longer, len(chain) + 2)):
        cache.commit([upload_part(cache, world.namespace, asked, first=known)])
    for asked in (chain, branch, longer):
        assert world.matched(cache, asked) == len(asked)


def test_others_learn_of_it_from_the_log(world: World) -> None:
    cache, other = world.open(), world.open()
    chain = world.conversation(cache, TURNS)
    other.core.follow()
    merge_all(cache)
    other.core.follow()
    assert visible(other) == visible(cache)
    assert len(visible(other)) == 1
    assert world.matched(other, chain) == len(chain)


def test_what_it_costs_where_requests_do(world: World) -> None:
    """A header and one range of each segment, a PUT for the new one, a PUT for the record, a DELETE for each old one;
    and that the name is free, and the log."""
    far = LatencyStore(world.objects)
    cache = world.open(lambda _: far)
    world.conversation(cache, TURNS)
    merger = Merger(cache.core, LIMITS)
    (run,) = merger.find_all().runs
    before = Counter(far.request_counts())
    assert merger.merge(run)
    cache.core.replacing.drop_due()
    asked = Counter(far.request_counts()) - before
    assert asked == {"get": 2 * TURNS, "put": 2, "delete": TURNS, "list": asked["list"]}
    assert asked["list"] <= 2


def test_a_merge_is_no_use(world: World) -> None:
    """What was used least recently still goes first."""
    cache, other = world.open(), world.open()
    cold = world.conversation(cache, 4)
    hot = world.conversation(cache, 4, seed=1)
    other.core.follow()
    for each in (cache, other):
        assert world.matched(each, cold)
        assert world.matched(each, hot)
    assert merge_all(cache) == 2
    other.core.follow()
    for each in (cache, other):
        order = [segment.leaf for segment in each.core.catalog.eviction_order()]
        assert order == [cold[-1], hot[-1]]


# -- readers ------------------------------------------------------------------------------------------


def test_a_lease_follows_to_the_merged_segment(world: World) -> None:
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    match = cache.match(world.namespace, chain)
    merge_all(cache)
    cache.core.replacing.drop_due()
    assert world.segments() == visible(cache), "the lease needs the old objects no more"
    assert cache.core.evict(1) == 0, "it pins the new one"
    with cache.retrieve(match) as retrieval:
        check_delivery(retrieval, match)
    cache.release(match)
    assert cache.core.evict(1) > 0


def test_a_delivery_that_is_under_way_ends_well(on_disk: World) -> None:
    """It has open what it reads, and is not through when the objects go."""
    cache = on_disk.open()
    chain = on_disk.conversation(cache, TURNS)
    match = cache.match(on_disk.namespace, chain)
    plan = cache.core.plan  # so that nothing is read before the merge is over

    def plan_then_merge(descriptor: object) -> object:
        found = plan(descriptor)  # type: ignore[arg-type]
        opened = cache._open(found)
        merge_all(cache)
        cache.core.replacing.drop_due()
        assert not on_disk.segments() & set(opened)
        monkeypatch.setattr(cache, "_open", lambda _: opened)
        return found

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cache.core, "plan", plan_then_merge)
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)


def test_far_away_a_delivery_is_waited_for(world: World) -> None:
    """Nothing is open there: the old names are asked for until the delivery's deadline."""
    cache = world.open(LatencyStore)
    chain = world.conversation(cache, TURNS)
    match = cache.match(world.namespace, chain)
    before = visible(cache)
    with cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1, deadline_s=3000.0)) as retrieval:
        merge_all(cache)
        cache.core.replacing.drop_due()
        assert before < world.segments()
        check_delivery(retrieval, match)
    assert cache.core.replacing.due_in_s() > 2000
    assert cache.core.reconcile(orphan_age_s=-10.0).orphans == [], "they are not nobody's"


def test_after_the_grace_period_it_is_a_clean_miss(world: World) -> None:
    """Another process whose plan is older than that."""
    cache, late = world.open(LatencyStore), world.open(LatencyStore)
    chain = world.conversation(cache, TURNS)
    late.core.follow()
    match = late.match(world.namespace, chain)
    merge_all(cache)
    cache.core.replacing.drop_due()
    with late.retrieve(match) as retrieval, pytest.raises(KeyNotFoundError):
        check_delivery(retrieval, match)
    late.core.follow()
    assert world.matched(late, chain) == len(chain), "and then it knows"


def test_with_time_left_others_still_find_what_was_replaced(world: World) -> None:
    cache, late = world.open(LatencyStore, grace_s=60.0), world.open(LatencyStore)
    chain = world.conversation(cache, TURNS)
    late.core.follow()
    merge_all(cache)
    cache.core.replacing.drop_due()
    assert world.matched(late, chain) == len(chain)
    assert late.core.counters.forgotten == 0


def test_what_was_replaced_makes_room_before_anything_is_evicted(world: World) -> None:
    cache = world.open(grace_s=3600.0)
    chain = world.conversation(cache, TURNS)
    merge_all(cache)
    assert len(world.segments()) == TURNS + 1
    assert cache.core.evict(1000) >= 1000
    assert TURNS - 1 <= len(world.segments()) < TURNS + 1
    assert cache.core.counters.evicted == 0
    assert world.matched(cache, chain) == len(chain)


# -- duplicates, and several who merge ----------------------------------------------------------------


def test_two_at_once_and_one_is_late(world: World) -> None:
    one, two = world.open(), world.open()
    chain = world.conversation(one, TURNS)
    two.core.follow()
    mergers = Merger(one.core, LIMITS), Merger(two.core, LIMITS)
    begun = [only_run(merger) for merger in mergers]
    joined = [join(world.objects, each.order) for each in begun]
    assert mergers[0].complete(begun[0], joined[0])
    assert not mergers[1].complete(begun[1], joined[1])
    assert two.merges.outrun == 1
    one.core.replacing.drop_due()
    assert world.segments() == visible(one) == visible(two) == {begun[0].order.name}
    for cache in (one, two):
        assert world.matched(cache, chain) == len(chain)


def test_two_at_once_that_do_not_see_each_other(world: World) -> None:
    """Both merges are visible then, which is legal; one of them goes, whoever looks."""
    one, two = world.open(), world.open()
    chain = world.conversation(one, TURNS)
    two.core.follow()
    mergers = Merger(one.core, LIMITS), Merger(two.core, LIMITS)
    begun = [only_run(merger) for merger in mergers]
    joined = [join(world.objects, each.order) for each in begun]
    assert mergers[0].complete(begun[0], joined[0])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(two.core.journal, "follow", lambda: 0)
        assert mergers[1].complete(begun[1], joined[1])
    for cache in (one, two):
        cache.core.follow()
        assert len(visible(cache)) == 2
    found = [merger.find_all().duplicates for merger in mergers]
    assert len({segment.name for each in found for segment in each}) == len(found[0]) == len(found[1]) == 1
    merge_all(two)
    one.core.follow()
    two.core.replacing.drop_due()
    one.core.replacing.drop_due()
    assert len(world.segments()) == len(visible(one)) == 1
    assert two.merges.duplicates == 1
    for cache in (one, two):
        assert world.matched(cache, chain) == len(chain)


def test_what_was_stored_twice_is_dropped(world: World) -> None:
    one, two = world.open(), world.open()
    chain = world.conversation(one, TURNS)
    world.conversation(two, TURNS)  # two has not followed
    one.core.follow()
    assert len(visible(one)) == 2 * TURNS
    merge_all(one)
    assert len(visible(one)) == 1
    assert one.merges.duplicates == TURNS
    assert world.matched(one, chain) == len(chain)


def test_what_was_evicted_meanwhile_does_not_come_back(world: World) -> None:
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    merger = Merger(cache.core, LIMITS)
    begun = only_run(merger)
    joined = join(world.objects, begun.order)
    assert cache.core.evict(1)
    left = visible(cache)
    assert not merger.complete(begun, joined)
    assert cache.merges.outrun == 1
    assert world.segments() == visible(cache) == left
    assert world.matched(cache, chain) == len(left) * TURN_CHUNKS
    assert merger.begin(begun.run) is None
    assert cache.merges.outrun == 2


# -- faults -------------------------------------------------------------------------------------------


def break_object(world: World, name: str, at: int) -> None:
    data = bytearray(world.objects.get(name))
    data[at] ^= 1
    world.objects.put(name, data)


def test_damage_is_met_and_forgotten(world: World) -> None:
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    victim = only_run(Merger(cache.core, LIMITS)).run[9]
    break_object(world, victim.name, victim.geometry.slice_offset(2, 1))
    merger = Merger(cache.core, LIMITS)
    assert not merger.merge(merger.find_all().runs[0])
    assert cache.merges.failed == 1
    assert victim.name not in visible(cache) | world.segments()
    assert world.segments() == visible(cache)
    assert world.matched(cache, chain) == 9 * TURN_CHUNKS
    assert merge_all(cache) == 2, "before the gap, and behind it"
    assert world.matched(cache, chain) == 9 * TURN_CHUNKS


def test_what_is_gone_is_forgotten(world: World) -> None:
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    victim = only_run(Merger(cache.core, LIMITS)).run[5]
    world.objects.delete(victim.name)
    merger = Merger(cache.core, LIMITS)
    assert not merger.merge(merger.find_all().runs[0])
    assert victim.name not in visible(cache)
    assert world.matched(cache, chain) == 5 * TURN_CHUNKS


@pytest.mark.parametrize("kind", ["get", "put", "multipart"])
def test_a_store_that_fails_while_it_is_copied(world: World, kind: str) -> None:
    failing: list[str] = []

    def fail(what: str, name: str, offset: int) -> None:
        if what in failing and name.startswith(SEGMENT_PREFIX):
            raise StoreUnavailableError("the store is away")

    cache = world.open(partial(LatencyStore, before=fail))
    chain = world.conversation(cache, TURNS)
    merger = Merger(cache.core, LIMITS)
    (run,) = merger.find_all().runs
    failing += [kind] if kind == "get" else ["put", "multipart"]
    assert not merger.merge(run)
    failing.clear()
    assert cache.merges.failed == 1
    assert cache.core._room._reserved_bytes == 0
    assert world.segments() == visible(cache)
    assert merger.merge(run), "nothing is lost by it"
    assert world.matched(cache, chain) == len(chain)


def test_a_commit_that_fails_may_have_been_written(world: World) -> None:
    """The upload stays then: it is swept if nobody's, and needed if the record is there."""
    failing = False

    def fail(what: str, name: str, offset: int) -> None:
        if failing and name.startswith(LOG_PREFIX) and what == "put":
            raise StoreUnavailableError("no answer")

    cache = world.open(partial(LatencyStore, before=fail))
    chain = world.conversation(cache, TURNS)
    merger = Merger(cache.core, LIMITS)
    begun = only_run(merger)
    joined = join(cache.core.store, begun.order)
    failing = True
    with pytest.raises(StoreUnavailableError):
        merger.complete(begun, joined)
    failing = False
    assert cache.core._room._reserved_bytes == 0
    assert begun.order.name in world.segments()
    assert world.matched(cache, chain) == len(chain)
    assert cache.core.reconcile(orphan_age_s=-10.0).orphans == [begun.order.name]
    assert merge_all(cache) == 1
    assert world.matched(cache, chain) == len(chain)


def test_without_room_nothing_is_evicted_for_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(tmp_path, stack, MemoryStore(1 << 20))
        cache = world.open()
        chain = world.conversation(cache, TURNS)
        usage = world.objects.usage()
        assert usage.limit_bytes is not None
        world.objects.put("filler", bytes(usage.limit_bytes - usage.used_bytes - 20_000))
        assert merge_all(cache) == 0
        assert cache.merges.skipped_room == 1
        assert cache.core.counters.evicted == 0
        assert cache.core.counters.dropped_full == 0
        assert len(visible(cache)) == TURNS
        assert world.matched(cache, chain) == len(chain)


def test_a_disk_that_turns_out_to_be_full(world: World) -> None:
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    merger = Merger(cache.core, LIMITS)
    (run,) = merger.find_all().runs

    def full(*args: object, **how: object) -> object:
        raise StoreFullError("no space left on device")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(world.objects, "upload", full)
        assert not merger.merge(run)
    assert cache.merges.skipped_room == 1
    assert cache.merges.failed == 0
    assert world.matched(cache, chain) == len(chain)


# -- ends of processes --------------------------------------------------------------------------------


def test_an_end_between_upload_and_commit(world: World) -> None:
    cache = world.open()
    chain = world.conversation(cache, TURNS)
    begun = join_to_the_end(cache, Merger(cache.core, LIMITS))
    cache.close()
    other = world.open()
    assert world.matched(other, chain) == len(chain)
    assert other.core.reconcile(orphan_age_s=-10.0).orphans == [begun.order.name]
    assert world.matched(other, chain) == len(chain)


def test_an_end_between_commit_and_deletion(world: World) -> None:
    cache = world.open(grace_s=3600.0)
    chain = world.conversation(cache, TURNS)
    before = visible(cache)
    merge_all(cache)
    cache.close()
    other = world.open()
    assert len(visible(other)) == 1
    assert set(other.core.reconcile(orphan_age_s=-10.0).orphans) == before
    assert world.segments() == visible(other)
    assert world.matched(other, chain) == len(chain)


# -- other layouts ------------------------------------------------------------------------------------


def test_windows_are_merged_and_states_are_not(tmp_path: Path) -> None:
    """Groups with chunks of their own size, in two shards; of recurrent states only one is ever read."""
    layout = KVLayout(
        (
            KVGroup("full", 16, (KVShard(0, (0, 2), (500, 500)), KVShard(1, (0, 2), (500, 500), (1,)))),
            KVGroup("window", 32, (KVShard(0, (1,), (700,)),), rule=MatchRule.WINDOW, window_tokens=320),
            KVGroup("state", 32, (KVShard(0, (3,), (900,)),), rule=MatchRule.STATE),
        )
    )
    with ExitStack() as stack:
        cache = World(tmp_path, stack).open()
        namespace = new_namespace(layout)
        chain = prompt(namespace, 32)
        store_parts(cache, namespace, chain, [PartId(0, 0), PartId(0, 1)], cuts=range(2, 32, 2))
        store_parts(cache, namespace, chain, [PartId(1, 0), PartId(2, 0)], cuts=range(1, 16))
        match = retrieve_and_check(cache, namespace, chain)
        assert match.tokens == 512
        cache.release(match)
        assert merge_all(cache) == 3
        counts = [(segment.group, segment.num_chunks) for segment in cache.core.catalog.segments()]
        assert sorted(counts) == [(0, 32), (0, 32), (1, 16)] + [(2, 1)] * 16
        assert retrieve_and_check(cache, namespace, chain).tokens == 512
