"""A full store: what may go is evicted, the rest is dropped and counted, and hits go on."""

from __future__ import annotations

import itertools

import pytest

from objectcache.cache import KVCache
from objectcache.errors import StoreFullError
from objectcache.keys import KeyChain, Namespace
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess

LAYOUT = flat_layout(4, 64 << 10)
CHUNKS = 8
SEGMENT_BYTES = 4 * (64 << 10) * CHUNKS  # and a little more
LIMIT_BYTES = int(SEGMENT_BYTES * 4.5)
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def limited(module_gateway: StartGateway) -> GatewayProcess:
    return module_gateway(limit_bytes=LIMIT_BYTES)


@pytest.fixture
def bucket(limited: GatewayProcess) -> str:
    """Of the test's own: the limit is each bucket's."""
    name = f"small-{next(_NUMBERS)}"
    assert limited.ask("PUT", f"/{name}").status == 200
    return name


def stored(cache: KVCache, namespace: Namespace, seed: int) -> KeyChain:
    chain = prompt(namespace, CHUNKS, seed=seed)
    store_parts(cache, namespace, chain)
    return chain


def matched(cache: KVCache, namespace: Namespace, chain: KeyChain) -> int:
    """Matched chunks, without leaving a lease behind."""
    match = cache.match(namespace, chain)
    cache.release(match)
    return match.tokens // LAYOUT.key_tokens


def test_the_least_recently_used_goes_and_hits_go_on(limited: GatewayProcess, bucket: str) -> None:
    namespace = new_namespace(LAYOUT)
    with limited.open(bucket=bucket) as cache:
        chains = [stored(cache, namespace, seed) for seed in range(4)]
        assert matched(cache, namespace, chains[0]) == CHUNKS  # used just now, so it stays
        chains.append(stored(cache, namespace, 4))
        held = [matched(cache, namespace, chain) for chain in chains]
        assert held[0] == held[4] == CHUNKS
        assert held[1] == 0
        for chain, chunks in zip(chains, held, strict=True):
            match = retrieve_and_check(cache, namespace, chain)
            assert match.tokens == chunks * LAYOUT.key_tokens
            cache.release(match)
    assert limited.metric("objectcache_core_evicted", bucket=bucket) >= 1
    assert limited.metric("objectcache_store_bytes", bucket=bucket) <= LIMIT_BYTES
    assert limited.metric("objectcache_core_dropped_full", bucket=bucket) == 0


def test_leaves_go_before_the_prefixes_they_stand_on(limited: GatewayProcess, bucket: str) -> None:
    namespace = new_namespace(LAYOUT)
    with limited.open(bucket=bucket) as cache:
        long = prompt(namespace, 4 * CHUNKS)
        store_parts(cache, namespace, long, cuts=[CHUNKS, 2 * CHUNKS, 3 * CHUNKS])
        assert matched(cache, namespace, long) == 4 * CHUNKS
        stored(cache, namespace, 7)
        left = matched(cache, namespace, long)
        assert 0 < left < 4 * CHUNKS, "the end of the long prompt is gone, its beginning is not"


def test_what_a_lease_pins_stays_and_the_store_is_dropped_and_counted(limited: GatewayProcess, bucket: str) -> None:
    namespace = new_namespace(LAYOUT)
    with limited.open(bucket=bucket) as cache:
        chains = [stored(cache, namespace, seed) for seed in range(4)]
        leased = [cache.match(namespace, chain) for chain in chains]
        with pytest.raises(StoreFullError):
            stored(cache, namespace, 9)
        assert limited.metric("objectcache_core_dropped_full", bucket=bucket) == 1
        for chain in chains:
            retrieve_and_check(cache, namespace, chain)
        assert matched(cache, namespace, prompt(namespace, CHUNKS, seed=9)) == 0
        for match in leased:
            cache.release(match)


def test_a_segment_larger_than_the_limit_evicts_nothing(limited: GatewayProcess, bucket: str) -> None:
    namespace = new_namespace(LAYOUT)
    with limited.open(bucket=bucket) as cache:
        chain = stored(cache, namespace, 0)
        with pytest.raises(StoreFullError):
            store_parts(cache, namespace, prompt(namespace, 8 * CHUNKS, seed=1))
        assert matched(cache, namespace, chain) == CHUNKS
    assert limited.metric("objectcache_core_evicted", bucket=bucket) == 0
