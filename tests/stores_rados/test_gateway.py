"""Gateways over a pool: the contract of caches, two of them, kills."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from objectcache.cache import KVCache
from objectcache.stores import open_store
from objectcache.testing.caches import CacheContract
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.process import GatewayProcess, eventually
from tests.services import Cluster

LAYOUT = flat_layout(6, 64 << 10)


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    settings = {"store": cluster.url(pool, "gw"), "cache_bytes": 0, "workers": 2}
    gateway = GatewayProcess(tmp_path_factory.mktemp("rados"), settings=settings).start()
    try:
        yield gateway
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()


class TestGatewayOverRados(CacheContract):
    @pytest.fixture(autouse=True)
    def use(self, gateway: GatewayProcess) -> Iterator[None]:
        self.gateway = gateway
        yield
        eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "deliveries end")

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return self.gateway.open(buffer_bytes=buffer_bytes)

    def restart(self) -> None:
        self.gateway.restart()


def test_a_killed_worker_costs_a_retrieval_at_most(gateway: GatewayProcess) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 16)
    with gateway.open() as cache:
        store_parts(cache, namespace, chain)
        for pid in gateway.worker_pids:
            os.kill(pid, signal.SIGKILL)

        def retrieved() -> bool:
            try:
                return retrieve_and_check(cache, namespace, chain).tokens == 16 * LAYOUT.key_tokens
            except Exception:  # noqa: BLE001
                return False

        eventually(retrieved, "new workers deliver")


def test_another_gateway_finds_what_is_there(
    cluster: Cluster, pool: str, gateway: GatewayProcess, tmp_path: Path
) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, 16)
    with gateway.open() as cache:
        store_parts(cache, namespace, chain)
    other = GatewayProcess(tmp_path, settings={"store": cluster.url(pool, "gw")}).start()
    try:
        with other.open() as cache:
            # Twice: the second time from its read cache.
            for _ in range(2):
                assert retrieve_and_check(cache, namespace, chain).tokens == 16 * LAYOUT.key_tokens
        assert other.stop() == 0
    finally:
        other.kill()
    with open_store(cluster.url(pool, "gw")) as store:
        assert list(store.list_prefixes()) == ["kvcache/"]
