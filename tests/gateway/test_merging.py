"""Merging in gateways: beside deliveries, over restarts and kills, and by two of them at once."""

from __future__ import annotations

import random
import time

import pytest

from objectcache.cache import KVCache
from objectcache.keys import KeyChain, Namespace
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, eventually

LAYOUT = flat_layout(4, 16 << 10)
TURNS, TURN_CHUNKS = 16, 2
QUICK = {"merge_interval_s": 0.05}


def conversation(cache: KVCache, namespace: Namespace, seed: int = 0) -> KeyChain:
    chain = prompt(namespace, TURNS * TURN_CHUNKS, seed=seed)
    store_parts(cache, namespace, chain, cuts=range(TURN_CHUNKS, len(chain), TURN_CHUNKS))
    return chain


def read(cache: KVCache, namespace: Namespace, chain: KeyChain) -> None:
    match = retrieve_and_check(cache, namespace, chain)
    assert match.tokens == len(chain) * LAYOUT.key_tokens
    cache.release(match)


@pytest.mark.parametrize("target", ["tcp", "http"])
def test_a_conversation_that_is_read_is_merged(own_gateway: StartGateway, target: str) -> None:
    gateway = own_gateway(**QUICK)
    namespace = new_namespace(LAYOUT)
    with gateway.open(target=target) as cache:
        chain = conversation(cache, namespace)
        read(cache, namespace, chain)
        assert gateway.metric("objectcache_read_ranges_per_layer") == TURNS
        eventually(lambda: gateway.metric("objectcache_merge_merged") == 1, "it is merged")
        before = gateway.metric("objectcache_read_ranges"), gateway.metric("objectcache_read_layers")
        read(cache, namespace, chain)
        after = gateway.metric("objectcache_read_ranges"), gateway.metric("objectcache_read_layers")
        assert (after[0] - before[0]) / (after[1] - before[1]) == 1
    assert gateway.metric("objectcache_merge_segments") == TURNS
    assert gateway.metric("objectcache_merge_bytes_rewritten") > LAYOUT.shard(0, 0).slice_bytes[0] * len(chain)
    assert gateway.metric("objectcache_merge_failed") == 0
    amplification = gateway.metric("objectcache_read_amplification")
    assert 1 < amplification < 1.1, "digest rows"
    assert gateway.metric("objectcache_read_payload_bytes") * amplification == pytest.approx(
        gateway.metric("objectcache_read_read_bytes")
    )


def test_it_can_be_turned_off(own_gateway: StartGateway) -> None:
    gateway = own_gateway(merge_bytes_s=0, **QUICK)
    namespace = new_namespace(LAYOUT)
    with gateway.open() as cache:
        chain = conversation(cache, namespace)
        for _ in range(4):
            read(cache, namespace, chain)
            time.sleep(0.1)
    assert gateway.metric("objectcache_merge_merged") == 0


def test_the_end_does_not_wait_for_a_merge(own_gateway: StartGateway) -> None:
    gateway = own_gateway(merge_bytes_s="4KiB", drain_s=600.0, **QUICK)
    namespace = new_namespace(LAYOUT)
    with gateway.open() as cache:
        chain = conversation(cache, namespace)
        read(cache, namespace, chain)
        eventually(lambda: gateway.temporaries, "a merge is under way")
    assert gateway.stop() == 0
    assert gateway.temporaries == []
    gateway.start()
    with gateway.open() as cache:
        read(cache, namespace, chain)


def test_two_gateways_over_one_directory(own_gateway: StartGateway) -> None:
    one = own_gateway(**QUICK)
    two = GatewayProcess(one.data / "two", settings={"data": str(one.data / "store"), **QUICK}).start()
    namespace = new_namespace(LAYOUT)
    try:
        with one.open() as first, two.open() as second:
            chains = [conversation(first, namespace, seed) for seed in range(2)]
            eventually(lambda: all(second.match(namespace, chain).tokens for chain in chains), "it follows")
            for chain in chains:
                read(first, namespace, chain)
                read(second, namespace, chain)
            merged = [gateway.metric for gateway in (one, two)]
            eventually(lambda: sum(metric("objectcache_merge_merged") for metric in merged) >= 2, "all are merged")
            for chain in chains:
                read(first, namespace, chain)
                read(second, namespace, chain)
            assert sum(metric("objectcache_merge_failed") for metric in merged) == 0
            assert sum(metric("objectcache_core_forgotten") for metric in merged) == 0
    finally:
        two.kill()


def test_killed_at_any_moment(own_gateway: StartGateway) -> None:
    """What was committed matches afterwards, and is what it was."""
    gateway = own_gateway(**QUICK)
    namespace = new_namespace(LAYOUT)
    chance = random.Random(0)
    chains: list[KeyChain] = []
    merged = 0.0
    for life in range(3):
        with gateway.open() as cache:
            chains += [conversation(cache, namespace, seed=10 * life + number) for number in range(2)]
            for chain in chains:
                read(cache, namespace, chain)
            time.sleep(chance.uniform(0.0, 0.1))
            merged += gateway.metric("objectcache_merge_merged")
        gateway.kill()
        gateway.start()
    with gateway.open() as cache:
        for chain in chains:
            read(cache, namespace, chain)
        eventually(lambda: merged + gateway.metric("objectcache_merge_merged"), "something was merged")
        for chain in chains:
            read(cache, namespace, chain)
    assert gateway.metric("objectcache_core_forgotten") == 0
