"""Layers per unit are the gateway's choice, by what the descriptor says; the client hears of it in the answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from objectcache.cache import Match, RetrieveOptions
from objectcache.client import GatewayCache
from objectcache.scheduling.modes import Reason
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.gateway.process import GatewayProcess, eventually

LAYERS, CHUNKS, SLICE_BYTES = 12, 16, 64 << 10  # 1 MiB a layer


@pytest.fixture(params=["shm", "tcp", "http", "process"])
def cache(gateway: GatewayProcess, request: pytest.FixtureRequest) -> Iterator[GatewayCache]:
    process = request.param == "process"
    target = {"target": "tcp", "receiver": "process"} if process else {"target": request.param}
    with gateway.open(**target, streams=2, buffer_bytes=64 << 20) as opened:
        assert isinstance(opened, GatewayCache)
        yield opened


@pytest.fixture
def match(cache: GatewayCache) -> Match:
    namespace = new_namespace(flat_layout(LAYERS, SLICE_BYTES))
    chain = prompt(namespace, CHUNKS)
    store_parts(cache, namespace, chain, cuts=[5])
    return cache.match(namespace, chain)


def units(cache: GatewayCache, match: Match, options: RetrieveOptions) -> tuple[list[int], str]:
    """How many layers each unit had, and why."""
    with cache.retrieve(match, options=options) as retrieval:
        found = [len(layers) for layers in check_delivery(retrieval, match)]
        assert retrieval.complete
        assert retrieval.arrived_bytes() == match.payload_bytes
        return found, retrieval.reason


def test_the_gateway_chooses(cache: GatewayCache, match: Match) -> None:
    assert units(cache, match, RetrieveOptions()) == ([4, 4, 4], Reason.SIZE)
    # Compute that is short: layers are worth having as they come. Compute that is long hides units of any size.
    assert units(cache, match, RetrieveOptions(windows_s=(1e-3,) * LAYERS)) == ([1] * LAYERS, Reason.OVERLAP)
    assert units(cache, match, RetrieveOptions(windows_s=(1.0,) * LAYERS)) == ([4, 4, 4], Reason.SIZE)
    assert units(cache, match, RetrieveOptions(layers_per_unit=5)) == ([5, 5, 2], Reason.ASKED)


def test_part_of_a_match_can_be_had(cache: GatewayCache, match: Match) -> None:
    for chunks in (1, 5, 6, CHUNKS):
        shorter = match.shortened(chunks * 16)
        assert units(cache, shorter, RetrieveOptions(layers_per_unit=1))[0] == [1] * LAYERS
    cache.release(match)


def test_choices_are_counted(gateway: GatewayProcess, cache: GatewayCache, match: Match) -> None:
    def counted() -> float:
        return gateway.metric("objectcache_deliveries_by_unit_total", reason="size")

    units(cache, match, RetrieveOptions())
    before = counted()
    units(cache, match, RetrieveOptions())
    assert counted() == before + 1


def test_corrections_reach_the_gateway(gateway: GatewayProcess, cache: GatewayCache, match: Match) -> None:
    def taken() -> float:
        return gateway.metric("objectcache_requests_total", operation="kv-windows", status="204")

    before = taken()
    with cache.retrieve(match) as retrieval:
        retrieval.correct_windows((0.5,) * LAYERS, -0.1)
        eventually(lambda: taken() == before + 1, "the gateway has been told")
        list(retrieval)
