"""What engines of `bench vllm` load from: a store that is addressed both ways, a gateway that forgets or stalls."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="needs the extra s3")

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BUCKET
from objectcache.bench.retrieve.workload import StoredPrefix, bench_namespace, random_chain, store_prefix
from objectcache.bench.shapes import ModelShape
from objectcache.bench.stores.retrieving import retrieve
from objectcache.bench.stores.settings import BenchStore
from objectcache.bench.vllm import site
from objectcache.bench.vllm.site import GatewayOverStore, started_store, wait_until_stored
from objectcache.client import ClientOptions, GatewayCache
from objectcache.client.endpoint import Endpoint
from objectcache.client.http import GatewayHttp
from objectcache.s3 import Credentials
from objectcache.stores import open_store

TINY = ModelShape("tiny", "tiny", num_layers=4, num_kv_heads=1, head_dim=16, dtype_bytes=2)
CHUNKS = 8
KV_BYTES = CHUNKS * 4 * 2 * 16 * 2 * 16

pytestmark = pytest.mark.skipif(
    not Path(sys.executable).with_name("weed").exists() and shutil.which("weed") is None,
    reason="weed is not installed",
)


@pytest.fixture(scope="module")
def store() -> Iterator[BenchStore]:
    with started_store() as store:
        yield store


@pytest.fixture(scope="module")
def gateway(store: BenchStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayOverStore]:
    with GatewayOverStore(store.below("gateway"), tmp_path_factory.mktemp("gateway"), stallable=True) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: GatewayOverStore) -> Iterator[GatewayCache]:
    host, _, port = gateway.url.removeprefix("http://").removesuffix(f"/{BUCKET}").partition(":")
    access_key, secret_key = gateway.environment.values()
    cache = GatewayCache(host, int(port), BUCKET, ClientOptions(access_key=access_key, secret_key=secret_key))
    yield cache
    cache.close()


@pytest.fixture(scope="module")
def prefix(client: GatewayCache) -> StoredPrefix:
    namespace = bench_namespace(TINY, 1)
    return store_prefix(client, namespace, random_chain(namespace, CHUNKS, 1), CHUNKS, 1, lambda: None)


def test_a_bucket_in_the_hosts_name_is_in_the_same_store(store: BenchStore) -> None:
    port = int(store.options.endpoint.rpartition(":")[2])
    keys = Credentials("testaccesskey", "testsecretkey")
    by_host = GatewayHttp(Endpoint(f"{site._LMCACHE_BUCKET}.{site._DOMAIN}", port, credentials=keys), timeout_s=10)
    by_host.request("PUT", "/a/b%40c", b"xyz")
    by_host.close()
    by_path = open_store(f"s3://{site._LMCACHE_BUCKET}?endpoint={store.options.endpoint}")
    assert [info.name for info in by_path.list()] == ["a/b@c"]
    by_path.close()


def test_what_is_stored_through_the_gateway_is_the_stores(
    store: BenchStore, prefix: StoredPrefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until_stored(store.below("gateway"), KV_BYTES)
    monkeypatch.setattr(site, "_SETTLE_TIMEOUT_S", 0.3)
    with pytest.raises(BenchmarkError, match="should be stored"):
        wait_until_stored(store.below("gateway"), 2 * KV_BYTES)


def test_a_forgotten_prefix_comes_from_the_store_and_not_at_all_while_that_stalls(
    gateway: GatewayOverStore, client: GatewayCache, prefix: StoredPrefix
) -> None:
    gateway.forget()
    gateway.stall(True)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(retrieve, client, prefix, arrived=prefix.check)
        with pytest.raises(TimeoutError):
            hanging.result(0.5)
        gateway.stall(False)
        hanging.result(30)
    gateway.stall(True)
    retrieve(client, prefix)  # in the read cache now
    gateway.stall(False)
