"""What merging leaves in the logs, as `objectcache why` tells it."""

from __future__ import annotations

from pathlib import Path

from objectcache.cache.explain import Reason
from tests.cache.explaining import World, namespace_of, prompt
from tests.cache.merging.worlds import merge_all, visible


def test_what_was_merged_counts_as_kept_and_then_as_gone_once(tmp_path: Path) -> None:
    world, namespace = World(tmp_path / "cache"), namespace_of()
    turns = world.store(namespace, prompt(8), cuts=range(9))
    with world.open() as cache:
        assert merge_all(cache) == 1
        (merged,) = visible(cache)
    assert world.why(namespace, prompt(8)).reason is Reason.ALL_MATCHED
    world.remove(merged)
    found = world.why(namespace, prompt(8))
    assert [merged in note for note in found.notes] == [True]
    assert not any(name in note for note in found.notes for name in turns)
