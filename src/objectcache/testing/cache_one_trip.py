"""What every cache must do, as pytest tests: match and retrieve in one. Part of `objectcache.testing.caches`."""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from objectcache.cache import KVCache, Match, PartId, Retrieval, RetrieveOptions
from objectcache.cache.base import all_parts
from objectcache.errors import BufferPoolExhaustedError, DeliveryTimeoutError, LayoutError, RequestError
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule
from objectcache.testing.synthetic import (
    check_delivery,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)

LAYOUTS = {
    "flat": flat_layout(5, 3000),
    "large": flat_layout(3, 400_000),
    "shards": KVLayout.attention(num_layers=3, num_kv_heads=4, head_dim=8, dtype_bytes=2, tensor_parallel=2),
    "stages": KVLayout.latent(num_layers=5, latent_dim=36, dtype_bytes=2, tensor_parallel=2, pipeline_parallel=2),
    "groups": KVLayout(
        (
            KVGroup("full", 16, (KVShard(0, (0, 3), (200, 300), (0,)), KVShard(1, (0, 3), (200, 300), (1,)))),
            KVGroup("sliding", 32, (KVShard(0, (1, 2), (700, 700), (0,)),), MatchRule.WINDOW, 64),
            KVGroup("state", 64, (KVShard(0, (4,), (5000,), (0,)),), MatchRule.STATE),
        )
    ),
}
DRAWN = 12
PATIENCE_S = 30.0


def in_one_and_check(
    cache: KVCache,
    namespace: Namespace,
    chain: KeyChain,
    parts: list[PartId] | None = None,
    options: RetrieveOptions | None = None,
    most_tokens: int | None = None,
) -> Match:
    """Match and retrieve in one, and check that it is what a match says, and every byte."""
    alone = cache.match(namespace, chain, parts=parts)
    match, retrieval = cache.match_and_retrieve(namespace, chain, parts=parts, options=options, most_tokens=most_tokens)
    assert (match.tokens, match.parts, match.payload_bytes) == (alone.tokens, alone.parts, alone.payload_bytes)
    assert (match.lease is None) == (alone.lease is None) == (retrieval is None) == (not match.tokens)
    if retrieval is not None:
        coming, expected = match.bounded(most_tokens), alone.bounded(most_tokens)
        with cache.retrieve(expected, options=options) as other, retrieval:
            units = check_delivery(retrieval, coming), check_delivery(other, expected)
            mine, others = retrieval.geometry, other.geometry
            assert [replace(part, held=()) for part in mine.parts] == [replace(part, held=()) for part in others.parts]
            if mine.parts == others.parts:  # a local tier may have come to hold some of it in between
                assert units[0] == units[1]
                assert mine == others
                assert retrieval.reason == other.reason
    cache.release(match)
    cache.release(alone)
    return match


class OneTripContract:
    """Both in one, of caches given by a fixture `cache`."""

    @abstractmethod
    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache: ...

    @pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
    def test_what_comes_is_what_a_match_and_a_retrieval_bring(self, cache: KVCache, layout: KVLayout) -> None:
        drawn = random.Random(repr(layout))
        namespace = new_namespace(layout)
        parts, keys = all_parts(namespace), 24
        for seed in range(2):
            for part in parts:
                chunks = keys * layout.key_tokens // layout.group(part.group).chunk_tokens
                cut = drawn.randrange(1, chunks)
                chain = prompt(namespace, keys, seed=seed, shared=8)
                with suppress(AssertionError):  # what is covered by the other chain is there already
                    cache.commit([upload_part(cache, namespace, chain, part, stop=cut)])
                if drawn.random() < 0.7:
                    cache.commit([upload_part(cache, namespace, chain, part, first=cut)])
        matched = set()
        for _ in range(DRAWN):
            asked = prompt(namespace, drawn.randrange(1, 32), seed=drawn.randrange(3), shared=drawn.randrange(9))
            some = drawn.sample(parts, drawn.randrange(1, len(parts) + 1))
            options = RetrieveOptions(layers_per_unit=drawn.choice([0, 0, 1, 2]))
            most = drawn.choice([None, drawn.randrange(1, 33 * layout.key_tokens)])
            match = in_one_and_check(cache, namespace, asked, drawn.choice([None, some]), options, most)
            matched.add((match.tokens > 0, 0 < match.tokens < len(asked) * layout.key_tokens))
        assert len(matched) > 1, "not all alike"

    def test_nothing_comes_of_what_matches_nothing(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUTS["flat"])
        unknown = new_namespace(LAYOUTS["flat"])
        store_parts(cache, namespace, prompt(namespace, 4))
        other = prompt(namespace, 4, seed=1)
        for where, chain, parts in (
            (namespace, other, None),
            (unknown, prompt(unknown, 4), None),
            (namespace, prompt(namespace, 0), None),
            (namespace, prompt(namespace, 4), []),
        ):
            assert cache.match_and_retrieve(where, chain, parts=parts) == (Match(where, 0), None)
        assert in_one_and_check(cache, namespace, prompt(namespace, 4)).tokens == 64

    def test_no_more_is_retrieved_than_is_wanted(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUTS["flat"])
        store_parts(cache, namespace, prompt(namespace, 8))
        for asked in (8, 12):
            for most, comes in ((5 * 16, 5), (5 * 16 + 15, 5), (16, 1), (8 * 16, 8), (1000, 8), (15, 8)):
                match, retrieval = cache.match_and_retrieve(namespace, prompt(namespace, asked), most_tokens=most)
                assert match.tokens == 8 * 16, "all that matches is told"
                assert retrieval is not None
                assert [part.num_chunks for part in retrieval.geometry.parts] == [comes]
                with retrieval:
                    check_delivery(retrieval, match.bounded(most))
                cache.release(match)
        for most in (0, -16):
            with pytest.raises(RequestError):
                cache.match_and_retrieve(namespace, prompt(namespace, 8), most_tokens=most)

    def test_parts_that_cannot_be_are_refused(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUTS["flat"])
        store_parts(cache, namespace, prompt(namespace, 4))
        with pytest.raises(LayoutError):
            cache.match_and_retrieve(namespace, prompt(namespace, 4), parts=[PartId(0, 0), PartId(5, 0)])
        assert in_one_and_check(cache, namespace, prompt(namespace, 4)).tokens == 64

    def test_less_of_it_is_had_by_its_lease(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUTS["flat"])
        store_parts(cache, namespace, prompt(namespace, 8))
        match, retrieval = cache.match_and_retrieve(namespace, prompt(namespace, 12))
        assert retrieval is not None
        retrieval.close()
        shorter = match.shortened(3 * 16)
        with cache.retrieve(shorter) as rest:
            check_delivery(rest, shorter)
        cache.release(match)

    def test_memory_is_taken_for_what_matched_only(self) -> None:
        layout = flat_layout(2, 1 << 16)
        namespace = new_namespace(layout)
        with self.open_cache(buffer_bytes=1 << 20) as cache:
            store_parts(cache, namespace, prompt(namespace, 3))
            asked = prompt(namespace, 7)
            held = []
            for _ in range(2):  # 7 chunks take 7/8 of the pool, and 3 of them 3/8
                match, retrieval = cache.match_and_retrieve(namespace, asked)
                assert retrieval is not None
                check_delivery(retrieval, match)
                held.append(retrieval)
            with pytest.raises(BufferPoolExhaustedError):
                cache.match_and_retrieve(namespace, asked)
            for retrieval in held:
                retrieval.close()
            for _ in range(8):
                assert in_one_and_check_alone(cache, namespace, asked).tokens == 3 * 16

    def test_a_prompt_that_is_too_long_for_the_pool_is_no_matter(self) -> None:
        layout = flat_layout(2, 1 << 16)
        namespace = new_namespace(layout)
        with self.open_cache(buffer_bytes=1 << 20) as cache:
            store_parts(cache, namespace, prompt(namespace, 3))
            for _ in range(4):
                assert in_one_and_check_alone(cache, namespace, prompt(namespace, 100)).tokens == 3 * 16

    def test_those_of_many_threads_do_not_mix(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUTS["flat"])
        chains = [prompt(namespace, 12, seed=seed, shared=min(seed, 4)) for seed in range(4)]
        for chain in chains:
            store_parts(cache, namespace, chain, cuts=[5])

        def load(turn: int) -> None:
            chain = chains[turn % len(chains)]
            if turn % 3:
                assert in_one_and_check_alone(cache, namespace, chain[: 4 + turn % 9]).tokens
            else:
                retrieve_and_check(cache, namespace, chain)

        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(load, turn) for turn in range(48)]:
                done.result(60)

    def test_one_that_is_late_leaves_nothing_behind(self) -> None:
        namespace = new_namespace(flat_layout(8, 1 << 16))
        with self.open_cache(buffer_bytes=64 << 20) as cache:
            store_parts(cache, namespace, prompt(namespace, 16))
            for deadline_s in (0.0, 1e-6, 0.002, 0.004):
                with suppress(DeliveryTimeoutError):
                    _, retrieval = cache.match_and_retrieve(
                        namespace, prompt(namespace, 16), options=RetrieveOptions(deadline_s=deadline_s)
                    )
                    assert retrieval is not None
                    with retrieval:
                        retrieval.wait(7)
            held: list[Retrieval] = []
            until_s = time.monotonic() + PATIENCE_S
            while len(held) < 7:  # all of the pool, as soon as what was given up is fenced
                try:
                    match, retrieval = cache.match_and_retrieve(namespace, prompt(namespace, 16))
                except BufferPoolExhaustedError:
                    assert time.monotonic() < until_s, "memory of what was given up does not come back"
                    time.sleep(0.01)
                    continue
                assert retrieval is not None
                check_delivery(retrieval, match)
                held.append(retrieval)
            for retrieval in held:
                retrieval.close()


def in_one_and_check_alone(cache: KVCache, namespace: Namespace, chain: KeyChain) -> Match:
    """Match and retrieve in one, and check every byte."""
    match, retrieval = cache.match_and_retrieve(namespace, chain)
    assert retrieval is not None
    with retrieval:
        check_delivery(retrieval, match)
    cache.release(match)
    return match
