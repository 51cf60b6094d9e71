"""Plans are made of the catalog as it is, however often the same is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.cache import RetrieveOptions
from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache, _descriptor
from objectcache.cache.tiering import TieredDelivery
from objectcache.errors import DescriptorError, KeyNotFoundError
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


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 60)), max_size=3),
    st.integers(0, 7),
)
def test_what_is_read_of_a_part_that_is_partly_held(
    chunks: list[int], steps: list[tuple[int, int]], from_layer: int
) -> None:
    """Reckoned by layers that lack the same, it is what it is run by run and layer by layer."""
    layers, sizes, total = (1, 3, 4, 7), (4096, 300_000, 4096, 65536), sum(chunks)
    held: list[tuple[int, int]] = []
    for below, count in sorted(steps, reverse=True):
        if count <= total and (not held or (below < held[-1][0] and count > held[-1][1])):
            held.append((below, count))
    runs, at = [], 0
    for index, num in enumerate(chunks):
        runs.append(PlanRun(f"s{index}", segment_geometry(num + 3, sizes, 100), b"", b"", 1, 1 + num, at))
        at += num
    part = PlanPart(0, 0, PartShape(layers, sizes, total, tuple(held)), tuple(runs))
    sent = [
        (position, run)
        for position, layer in enumerate(layers)
        for run in runs
        if layer >= from_layer and run.at + run.stop - run.first > part.shape.held_chunks(layer)
    ]
    try:
        plan = Plan.of([part], 1, from_layer)
    except DescriptorError:
        assert not sent, "all is held"
        return
    assert [(run.position, run.run.segment) for run in plan.layer_runs()] == [(p, run.segment) for p, run in sent]
    payload = sum((run.run.stop - run.run.first) * sizes[run.position] for run in plan.layer_runs())
    assert plan.payload_bytes == payload
    assert plan.num_ranges == len(sent)
    assert plan.read_bytes == payload + sum(run.geometry.rows[position].row_bytes for position, run in sent)
