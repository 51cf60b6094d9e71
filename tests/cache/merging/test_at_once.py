"""Several who merge at once, and segments that hold the same."""

from __future__ import annotations

import pytest

from objectcache.cache.merging.merger import Merger
from objectcache.joining import join
from tests.cache.merging.worlds import (
    LIMITS,
    TURN_CHUNKS,
    TURNS,
    World,
    merge_all,
    only_run,
    visible,
)


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
