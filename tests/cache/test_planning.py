"""Plans are made of the catalog as it is, however often the same is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from objectcache.cache import RetrieveOptions
from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache, _descriptor
from objectcache.cache.tiering import TieredDelivery
from objectcache.errors import KeyNotFoundError
from objectcache.plan import Plan, PlanPart
from objectcache.recent import Recent
from objectcache.stores import MemoryStore
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, store_parts


def test_a_plan_follows_the_catalog(tmp_path: Path) -> None:
    core = CacheCore.open(MemoryStore(1 << 30), tmp_path / "catalog")
    with LocalCache(core) as cache:
        namespace = new_namespace(flat_layout(2, 4096))
        chain = prompt(namespace, 8)
        store_parts(cache, namespace, chain[:4])
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        descriptor = _descriptor(
            match, TieredDelivery(None, match.namespace, match.parts), RetrieveOptions(layers_per_unit=1)
        )
        plan = core.plan(descriptor)
        assert core.plan(descriptor).parts[0] is plan.parts[0], "made once"
        other = prompt(namespace, 8, seed=1)
        store_parts(cache, namespace, other)
        again = core.plan(descriptor)
        assert again.parts[0].runs == plan.parts[0].runs
        assert again.parts[0].serial != plan.parts[0].serial, "the catalog is another one since"
        core.forget(plan.segments[0])
        with pytest.raises(KeyNotFoundError):
            core.plan(descriptor)


def test_a_worker_decodes_a_part_once_and_what_has_no_name_always(tmp_path: Path) -> None:
    core = CacheCore.open(MemoryStore(1 << 30), tmp_path / "catalog")
    with LocalCache(core) as cache:
        namespace = new_namespace(flat_layout(2, 4096))
        chain = prompt(namespace, 8)
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        plan = core.plan(
            _descriptor(match, TieredDelivery(None, match.namespace, match.parts), RetrieveOptions(layers_per_unit=1))
        )
    known: Recent[int, PlanPart] = Recent(100)
    wire = msgpack.packb(plan.to_wire())
    first, second = (Plan.from_wire(msgpack.unpackb(wire), known) for _ in range(2))
    assert first == second == replace(plan, reason="")  # which is for the client, not for a worker
    assert first.parts[0] is second.parts[0]
    unnamed = plan.to_wire() | {"parts": [(0, part.packed) for part in plan.parts]}
    assert Plan.from_wire(unnamed, known).parts[0] is not Plan.from_wire(unnamed, known).parts[0]
