"""Merges that go wrong: damage, stores that fail or are full, and processes that end in the middle."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from objectcache.cache.merging.merger import Merger
from objectcache.errors import StoreFullError, StoreUnavailableError
from objectcache.joining import join
from objectcache.names import LOG_PREFIX, SEGMENT_PREFIX
from objectcache.stores import MemoryStore
from objectcache.testing.far import LatencyStore
from tests.cache.merging.worlds import (
    LIMITS,
    TURN_CHUNKS,
    TURNS,
    World,
    join_to_the_end,
    merge_all,
    only_run,
    visible,
)

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
