"""Plans are made of the catalog as it is, however often the same is asked."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.cache import RetrieveOptions
from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache, _descriptor
from objectcache.cache.tiering import TieredDelivery
from objectcache.errors import KeyNotFoundError
from objectcache.layout import PartShape, segment_geometry
from objectcache.plan import Plan, PlanPart, PlanRun
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
        descriptor = _descriptor(match, TieredDelivery(None, match.namespace, match.parts), RetrieveOptions())
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
        plan = core.plan(_descriptor(match, TieredDelivery(None, match.namespace, match.parts), RetrieveOptions()))
    sent: Recent[int, None] = Recent(100)
    known: Recent[int, PlanPart] = Recent(100)
    wires = [msgpack.packb(plan.to_wire(sent)) for _ in range(2)]
    first, second = (Plan.from_wire(msgpack.unpackb(wire), known) for wire in wires)
    assert first == second == plan
    assert first.parts[0] is second.parts[0]
    assert len(wires[1]) < len(wires[0]) / 2, "it is only named the second time"
    unnamed = plan.to_wire()
    assert Plan.from_wire(unnamed, known).parts[0] is not Plan.from_wire(unnamed, known).parts[0]


@given(st.lists(st.integers(1, 6), max_size=40), st.integers(1, 8))
def test_a_worker_has_what_its_sender_thinks_it_has(asked: list[int], limit: int) -> None:
    shape = PartShape((0,), (4096,), 1)
    run = PlanRun("s", segment_geometry(1, (4096,), 64), bytes(16), bytes(16), 0, 1, 0)
    sent: Recent[int, None] = Recent(limit)
    known: Recent[int, PlanPart] = Recent(limit)
    for serial in asked:
        plan = Plan.of([PlanPart(serial, 0, shape, (run,) * serial, serial)], 1)
        assert Plan.from_wire(msgpack.unpackb(msgpack.packb(plan.to_wire(sent))), known) == plan
