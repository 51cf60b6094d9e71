"""What is asked of a store that is far away: everything once, few requests, the next layer first."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.cache.base import CHUNKWISE
from objectcache.cache.far_reading import REQUESTS_AT_ONCE
from objectcache.cache.requests import (
    FIRST_BYTES,
    GAP_BYTES,
    LIMIT_BYTES,
    MAX_BYTES,
    PIECE_BYTES,
    Request,
    plan_requests,
)
from objectcache.layout import PartShape, segment_geometry
from objectcache.plan import Plan, PlanPart, PlanRun

KIB = 1 << 10


def part(runs: list[tuple[int, int, int]], layers: tuple[int, ...], sizes: tuple[int, ...], group: int = 0) -> PlanPart:
    """`runs` are (chunks of the segment, first, stop)."""
    planned, at = [], 0
    for number, (chunks, first, stop) in enumerate(runs):
        geometry = segment_geometry(chunks, sizes, 500 + 32 * chunks)
        planned.append(PlanRun(f"{group}/{number}", geometry, bytes(16 * len(layers)), b"leaf", first, stop, at))
        at += stop - first
    return PlanPart(group, 0, PartShape(layers, sizes, at), tuple(planned))


def uniform(runs: list[tuple[int, int, int]], num_layers: int, slice_bytes: int, per_unit: int = 1) -> Plan:
    return Plan.of([part(runs, tuple(range(num_layers)), (slice_bytes,) * num_layers)], per_unit)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    parts = []
    for group in range(draw(st.integers(1, 3))):
        layers = tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=1))))
        sizes = tuple(draw(st.sampled_from([1, 100, 4 * KIB, 70_000, 1 << 20, 5 << 20])) for _ in layers)
        runs = []
        for _ in range(draw(st.integers(1, 4))):
            chunks = draw(st.integers(1, 40))
            first = draw(st.integers(0, chunks - 1))
            runs.append((chunks, first, draw(st.integers(first + 1, chunks))))
        parts.append(part(runs, layers, sizes, group))
    return Plan.of(parts, draw(st.sampled_from([1, 2, CHUNKWISE])))


@given(plans())
def test_every_slice_and_every_row_is_asked_for_once_and_at_its_place(plan: Plan) -> None:
    layer_runs = list(plan.layer_runs())
    chunks: Counter[tuple[int, int]] = Counter()
    rows: Counter[int] = Counter()
    for request in plan_requests(plan):
        geometry = request.contents[0].layer_run.run.geometry
        assert 0 <= request.begin < request.end <= geometry.footer_offset
        at = request.begin
        for content in request.contents:
            layer_run = layer_runs[content.index]
            assert content.layer_run == layer_run
            assert layer_run.run.segment == request.segment
            position = layer_run.position
            if content.row:
                rows[content.index] += 1
                assert at <= content.row_at == geometry.row_offset(position)
                at = content.row_at + geometry.rows[position].row_bytes
            if content.first < content.stop:
                assert at <= content.slices_at == geometry.slice_offset(position, content.first)
                assert content.slices_bytes == (content.stop - content.first) * geometry.slice_bytes[position]
                at = content.slices_at + content.slices_bytes
            chunks.update((content.index, chunk) for chunk in range(content.first, content.stop))
        assert at == request.end
    assert rows == Counter(range(len(layer_runs)))
    assert chunks == Counter(
        (index, chunk)
        for index, layer_run in enumerate(layer_runs)
        for chunk in range(layer_run.run.first, layer_run.run.stop)
    )


@given(plans())
def test_requests_are_bounded_and_in_order(plan: Plan) -> None:
    requests = list(plan_requests(plan))
    for request in requests:
        largest = max(content.layer_run.row.slice_bytes for content in request.contents)
        rows = max(content.layer_run.row.row_bytes for content in request.contents)
        assert request.length <= max(LIMIT_BYTES, PIECE_BYTES + largest + rows + GAP_BYTES)
        wanted = sum(content.wanted_bytes for content in request.contents)
        assert request.length - wanted <= 2 * GAP_BYTES * len(request.contents), "before a row, and after it"
    # The first layer's requests come before all others, in order; later ones may bring several layers.
    indices = [request.contents[0].index for request in requests]
    units = [request.contents[0].layer_run.unit for request in requests]
    assert indices[0] == 0
    first = units.count(0)
    assert all(unit == 0 for unit in units[:first]) or plan.payload_bytes <= MAX_BYTES


def last_request_of(requests: list[Request], layer: int) -> int:
    """How many requests have to be answered before `layer` and all before it are there."""
    return max(
        number
        for number, request in enumerate(requests, 1)
        if any(content.layer_run.layer <= layer for content in request.contents)
    )


def waves(count: int) -> int:
    """How many latencies `count` requests take."""
    return -(-count // REQUESTS_AT_ONCE)


def test_a_short_prefix_of_one_segment_is_one_request() -> None:
    (request,) = plan_requests(uniform([(16, 0, 16)], 32, 12 * KIB))
    assert request.length < (6 << 20) + 32 * 8 * KIB
    (request,) = plan_requests(uniform([(16, 0, 16)], 32, 12 * KIB, CHUNKWISE))
    assert len(request.contents) == 32


def test_layers_of_sixteen_mib_are_cut_for_many_connections() -> None:
    """The prefix of 4,096 tokens: 256 chunks × 32 layers × 64 KiB."""
    requests = list(plan_requests(uniform([(256, 0, 256)], 32, 64 * KIB)))
    first = sum(request.contents[0].layer_run.layer == 0 for request in requests)
    assert first == 16
    assert len(requests) == first + 31 * 4
    assert all(PIECE_BYTES <= request.length <= PIECE_BYTES + 8 * KIB for request in requests[first:])
    for layer in range(32):
        assert last_request_of(requests, layer) == first + 4 * layer
    assert waves(last_request_of(requests, 0)) == 1
    assert waves(len(requests)) == 6, "some latencies, not one a layer"


def test_a_prefix_of_many_small_segments_takes_requests_for_few_groups_of_layers() -> None:
    """The same prefix in 256 segments, of which each layer is 64 KiB: 8,192 layer runs."""
    requests = list(plan_requests(uniform([(1, 0, 1)] * 256, 32, 64 * KIB)))
    assert len(requests) <= 7 * 256
    assert last_request_of(requests, 0) == 256, "the first layer waits for no other"
    requests = list(plan_requests(uniform([(16, 0, 16)] * 16, 32, 64 * KIB)))
    assert len(requests) <= 17 * 16


def test_small_layers_come_together_but_the_first_ones_do_not_wait_for_many() -> None:
    requests = list(plan_requests(uniform([(64, 0, 64)], 80, 4 * KIB)))  # 256 KiB a layer, 20 MiB
    assert len(requests) <= 6
    assert requests[0].length <= FIRST_BYTES + 64 * KIB
    assert waves(len(requests)) == 1


@pytest.mark.parametrize(("first", "count"), [(0, 1), (8, 1), (16, 1), (17, 2), (200, 2)])
def test_a_row_that_is_far_from_its_slices_is_a_request_of_its_own(first: int, count: int) -> None:
    requests = list(plan_requests(uniform([(256, first, 256)], 1, 64 * KIB)))
    rows = [request for request in requests if any(content.row for content in request.contents)]
    assert len(rows) == 1
    alone = rows[0].contents[0].first == rows[0].contents[0].stop
    assert alone == (count == 2)
    assert rows[0] is requests[0]


@given(st.integers(1, 64), st.integers(1, 48), st.sampled_from([4 * KIB, 32 * KIB, 64 * KIB, 256 * KIB]))
def test_one_segment_takes_about_as_many_requests_as_its_bytes_fill(chunks: int, layers: int, slice_bytes: int) -> None:
    plan = uniform([(chunks, 0, chunks)], layers, slice_bytes)
    assert len(list(plan_requests(plan))) <= 20 + 2 * plan.payload_bytes / PIECE_BYTES
