"""The local tier of clients of a gateway: over every target, in two processes' worth of clients, and with a restart."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from objectcache.cache import KVCache, RetrieveOptions
from objectcache.cache.tiering import Tiering, TierOptions
from objectcache.client import GatewayCache
from objectcache.testing.synthetic import (
    check_delivery,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)
from objectcache.tier import LocalTier
from tests.gateway.process import GatewayProcess, eventually

LAYERS = 8
LAYOUT = flat_layout(LAYERS, 64 << 10)
TARGETS = [{"target": "tcp"}, {"target": "tcp", "receiver": "process"}, {"target": "http"}]


@pytest.fixture(autouse=True)
def on_any_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test machines may have a small /dev/shm: the tier is told that any folder will do."""

    def open_(self: TierOptions) -> Tiering | None:
        folder = str(tmp_path / "tier")
        return Tiering(LocalTier(folder, self.limit_bytes, on_disk=True)) if self.limit_bytes else None

    monkeypatch.setattr(TierOptions, "open", open_)


def open_tiered(gateway: GatewayProcess, **options: Any) -> GatewayCache:
    cache = gateway.open(tier=TierOptions(limit_bytes=1 << 30), **options)
    assert isinstance(cache, GatewayCache)
    return cache


def delivered_bytes(gateway: GatewayProcess) -> float:
    """Once all deliveries are counted, which is a moment after they have arrived."""
    eventually(lambda: not metric(gateway, "objectcache_deliveries_running"), "all deliveries are over")
    return metric(gateway, "objectcache_delivered_bytes_total")


def metric(gateway: GatewayProcess, name: str) -> float:
    lines = gateway.ask("GET", "/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def come(cache: KVCache, namespace: Any, chain: Any) -> None:
    assert retrieve_and_check(cache, namespace, chain).tokens == len(chain) * 16
    assert isinstance(cache, GatewayCache)
    assert cache.tiering is not None
    cache.tiering.settle()


@pytest.mark.parametrize("options", TARGETS, ids=str)
def test_what_is_held_is_not_sent(gateway: GatewayProcess, options: dict[str, Any]) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 70)
    size = 70 * (64 << 10)
    with open_tiered(gateway, **options) as one, open_tiered(gateway, **options) as other:
        store_parts(one, namespace, chain[:66], cuts=[5])
        sent = [delivered_bytes(gateway)]
        for cache in (one, other, one, other):
            come(cache, namespace, chain[:66])
            sent.append(delivered_bytes(gateway))
        layers = [round((after - before) / (66 * (64 << 10)), 1) for before, after in pairwise(sent)]
        assert layers == [LAYERS, LAYERS - 2, 0, 0], "first layers after the first time, all after the second"
        one.commit([upload_part(one, namespace, chain, first=66)])
        come(other, namespace, chain)
        assert 0 < delivered_bytes(gateway) - sent[-1] < 0.1 * LAYERS * size, "of what has grown, the new chunks"


def test_a_gateway_that_is_restarted(gateway: GatewayProcess) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 20)
    with open_tiered(gateway, target="tcp") as cache:
        store_parts(cache, namespace, chain)
        come(cache, namespace, chain)
        gateway.kill()
        gateway.start()
        come(cache, namespace, chain)
        come(cache, namespace, chain)


def test_unverified_bytes_are_not_kept(gateway: GatewayProcess) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 20)
    with open_tiered(gateway, target="tcp", verify="off") as cache:
        store_parts(cache, namespace, chain)
        for _ in range(3):
            come(cache, namespace, chain)
        assert cache.tiering is not None
        assert cache.tiering.stats.hits == cache.tiering.stats.kept_bytes == 0


@pytest.mark.parametrize("options", TARGETS, ids=str)
def test_what_is_held_is_read_where_it_is(gateway: GatewayProcess, options: dict[str, Any]) -> None:
    registered: dict[int, int] = {}

    def registrar(address: int, size_bytes: int) -> Callable[[], None]:
        registered[address] = size_bytes
        return lambda: registered.__delitem__(address)

    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 70)
    with open_tiered(gateway, **options) as cache:
        cache.register_buffers(registrar)
        store_parts(cache, namespace, chain[:66])
        for _ in range(3):
            come(cache, namespace, chain[:66])
        assert sum(registered.values()) >= cache.pool.size_bytes + LAYERS * 66 * (64 << 10)
        cache.commit([upload_part(cache, namespace, chain, first=66)])
        match = cache.match(namespace, chain)
        with cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1)) as retrieval:
            came = list(retrieval.follow())
            assert (0, 0, 0, 66) in came
            for chunks in came:
                blocks = retrieval.blocks(chunks.layer, chunks.part, chunks.first, chunks.stop)
                in_place = chunks.stop <= 66
                assert len(blocks) == (2 if in_place else 1), "two files, or the destination"
                for block in blocks:
                    begins = [at for at, size in registered.items() if at <= block.ctypes.data < at + size]
                    assert len(begins) == 1, "copied from registered memory"
            check_delivery(retrieval, match)
    assert registered == {}
