"""Several processes' caches over one far store whose clock is theirs, ahead, or behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from objectcache.cache import KVCache
from objectcache.cache.directory import open_beside
from objectcache.cache.local import LocalCache
from objectcache.stores import MemoryStore
from objectcache.testing.far import LatencyStore
from tests.several import SECONDS, Several


@pytest.mark.parametrize("seed", range(2))
def test_several_caches_agree_and_serve_nothing_wrong(tmp_path: Path, seed: int) -> None:
    objects = MemoryStore(1 << 30)

    def opener(name: str, skew_s: float) -> KVCache:
        return LocalCache(open_beside(LatencyStore(objects, 0.001, skew_s=skew_s), tmp_path / name))

    several = Several(
        {
            "one": lambda: opener("one", 0.0),
            "ahead": lambda: opener("ahead", 86_400.0),
            "behind": lambda: opener("behind", -86_400.0),
        },
        objects,
        seed=seed,
    )
    try:
        several.run(SECONDS)
    finally:
        several.close()
    assert several.counts["store"] > 10
    assert several.counts["read"] > 10
