"""What every cache must do, as pytest tests: how far a prefix matches. Part of `objectcache.testing.caches`."""

from __future__ import annotations

import pytest

from objectcache.cache import KVCache, Match, PartId, RetrieveOptions
from objectcache.cache.base import all_parts
from objectcache.errors import LeaseExpiredError, RequestError
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule
from objectcache.testing.synthetic import (
    LAYERWISE,
    check_delivery,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)

LAYOUT = flat_layout(3, 500)
TENSOR_PARALLEL = KVLayout.attention(num_layers=3, num_kv_heads=4, head_dim=8, dtype_bytes=2, tensor_parallel=2)
LATENT = KVLayout.latent(num_layers=5, latent_dim=36, dtype_bytes=2, tensor_parallel=2, pipeline_parallel=2)
WINDOWED = KVLayout(
    (
        KVGroup("full", 16, (KVShard(0, (0, 3), (200, 300), (0,)), KVShard(1, (0, 3), (200, 300), (1,)))),
        KVGroup("sliding", 32, (KVShard(0, (1, 2), (700, 700), (0,)),), MatchRule.WINDOW, 64),
        KVGroup("state", 64, (KVShard(0, (4,), (5000,), (0,)),), MatchRule.STATE),
    )
)
FULL = [PartId(0, 0), PartId(0, 1)]
SLIDING, STATE = PartId(1, 0), PartId(2, 0)


class MatchingContract:
    """Matches, of caches given by a fixture `cache`. Every match is retrieved, and every byte compared."""

    def test_an_empty_chain_matches_nothing(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        store_parts(cache, namespace, prompt(namespace, 2))
        match = cache.match(namespace, prompt(namespace, 0))
        assert match == Match(namespace, 0)
        with pytest.raises(RequestError):
            cache.retrieve(match)
        cache.release(match)

    def test_no_parts_match_nothing(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        store_parts(cache, namespace, prompt(namespace, 2))
        assert cache.match(namespace, prompt(namespace, 2), parts=[]).tokens == 0

    def test_a_prefix_of_what_is_stored_matches_whole(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 9)
        store_parts(cache, namespace, chain, cuts=[4])
        for keys in range(1, 10):
            assert retrieve_and_check(cache, namespace, chain[:keys]).tokens == keys * 16

    def test_a_branch_within_a_segment_matches_to_the_chunk(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        store_parts(cache, namespace, prompt(namespace, 12))
        for shared in (0, 1, 5, 11):
            branch = prompt(namespace, 12, seed=shared + 1, shared=shared)
            assert retrieve_and_check(cache, namespace, branch).tokens == shared * 16
        branch = prompt(namespace, 12, seed=6, shared=5)
        cache.commit([upload_part(cache, namespace, branch, first=5)])
        assert retrieve_and_check(cache, namespace, branch).tokens == 12 * 16
        assert retrieve_and_check(cache, namespace, prompt(namespace, 12)).tokens == 12 * 16

    def test_a_missing_middle_matches_up_to_the_gap(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 12)
        bounds = ((0, 4), (4, 8), (8, 12))
        head, middle, tail = (upload_part(cache, namespace, chain, first=a, stop=b) for a, b in bounds)
        cache.commit([tail])
        assert cache.match(namespace, chain).tokens == 0
        cache.commit([head])
        assert retrieve_and_check(cache, namespace, chain).tokens == 4 * 16
        cache.commit([middle])
        assert retrieve_and_check(cache, namespace, chain).tokens == 12 * 16

    def test_a_prefix_matches_as_far_as_all_shards_hold_it(self, cache: KVCache) -> None:
        namespace = new_namespace(TENSOR_PARALLEL)
        chain = prompt(namespace, 12)
        shards = [PartId(0, 0), PartId(0, 1)]
        cache.commit([upload_part(cache, namespace, chain, shards[0])])
        assert cache.match(namespace, chain).tokens == 0
        cache.commit([upload_part(cache, namespace, chain, shards[1], stop=7)])
        assert retrieve_and_check(cache, namespace, chain).tokens == 7 * 16
        for part, chunks in zip(shards, (12, 7), strict=True):
            alone = cache.match(namespace, chain, parts=[part])
            assert alone.tokens == chunks * 16
            assert [matched.part for matched in alone.parts] == [part]
            with cache.retrieve(alone) as retrieval:
                check_delivery(retrieval, alone)

    @pytest.mark.parametrize("layout", [LAYOUT, TENSOR_PARALLEL, LATENT], ids=["flat", "tensor", "latent"])
    def test_a_shorter_prefix_of_a_match_can_be_retrieved(self, cache: KVCache, layout: KVLayout) -> None:
        namespace = new_namespace(layout)
        chain = prompt(namespace, 7)
        store_parts(cache, namespace, chain, all_parts(namespace), cuts=[3])
        match = cache.match(namespace, chain)
        assert match.tokens == 7 * 16
        step = match.boundary_tokens
        for tokens in range(step, match.tokens + 1, step):
            shorter = match.shortened(tokens)
            assert (shorter.tokens, shorter.lease) == (tokens, match.lease)
            assert shorter.payload_bytes * match.tokens == match.payload_bytes * tokens
            with cache.retrieve(shorter) as retrieval:
                check_delivery(retrieval, shorter)
        for wrong in (0, step - 1, match.tokens + step):
            with pytest.raises(RequestError):
                match.shortened(wrong)

    @pytest.mark.parametrize("layout", [LAYOUT, TENSOR_PARALLEL, LATENT], ids=["flat", "tensor", "latent"])
    def test_what_the_engine_has_already_is_not_retrieved(self, cache: KVCache, layout: KVLayout) -> None:
        namespace = new_namespace(layout)
        chain = prompt(namespace, 12)
        store_parts(cache, namespace, chain, all_parts(namespace), cuts=[3])
        match = cache.match(namespace, chain)
        step = match.boundary_tokens
        for have in range(0, match.tokens, step):
            rest = match.after(have)
            assert (rest.tokens, rest.have_tokens, rest.lease) == (match.tokens, have, match.lease)
            assert rest.payload_bytes * match.tokens == match.payload_bytes * (match.tokens - have)
            assert rest.boundary_tokens == step
            for _ in range(3):  # a tier keeps and reads what comes again
                with cache.retrieve(rest) as retrieval:
                    check_delivery(retrieval, rest)
            shorter = rest.shortened(have + step)
            assert shorter.shortened(have + step).after(have) == shorter
            with cache.retrieve(shorter) as retrieval:
                check_delivery(retrieval, shorter)
            offer = rest.offer(match.tokens + 1)
            assert (offer.matched_tokens, offer.prompt_tokens) == (match.tokens - have, match.tokens + 1 - have)
            with pytest.raises(RequestError):
                rest.shortened(have)
        for wrong in (-step, step - 1, match.tokens):
            with pytest.raises(RequestError):
                match.after(wrong)
        retrieve_and_check(cache, namespace, chain)

    def test_what_a_window_sees_may_begin_later_than_what_the_engine_has(self, cache: KVCache) -> None:
        namespace = new_namespace(WINDOWED)
        chain = prompt(namespace, 20)
        store_parts(cache, namespace, chain, FULL)
        ends = [
            upload_part(cache, namespace, chain, SLIDING, first=6, stop=10),
            upload_part(cache, namespace, chain, STATE, first=4, stop=5),
        ]
        cache.commit(ends)
        match = cache.match(namespace, chain)
        rest = match.after(2 * 64)
        assert rest.boundary_tokens == 0
        firsts = {part.part: part.first for part in rest.parts}
        assert (firsts[SLIDING], firsts[STATE]) == (8, 4)
        with cache.retrieve(rest) as retrieval:
            check_delivery(retrieval, rest)

    def test_what_needs_its_end_has_no_shorter_prefix(self, cache: KVCache) -> None:
        namespace = new_namespace(WINDOWED)
        chain = prompt(namespace, 20)
        store_parts(cache, namespace, chain, FULL)
        ends = [
            upload_part(cache, namespace, chain, SLIDING, first=6, stop=10),
            upload_part(cache, namespace, chain, STATE, first=4, stop=5),
        ]
        cache.commit(ends)
        match = cache.match(namespace, chain)
        assert (match.tokens, match.boundary_tokens) == (5 * 64, 0)
        assert match.shortened(match.tokens) == match
        with pytest.raises(RequestError):
            match.shortened(64)
        offer = match.offer(1000)
        assert (offer.matched_tokens, offer.boundary_tokens) == (match.tokens, 0)
        assert sum(offer.layer_bytes) == match.payload_bytes

    def test_shards_of_pipeline_stages_have_layers_of_their_own(self, cache: KVCache) -> None:
        namespace = new_namespace(LATENT)
        chain = prompt(namespace, 6)
        stages = [PartId(0, 0), PartId(0, 1)]
        store_parts(cache, namespace, chain, stages, cuts=[2])
        match = cache.match(namespace, chain)
        assert match.tokens == 6 * 16
        options = RetrieveOptions(layers_per_unit=1)
        with cache.retrieve(match, options=options) as retrieval:
            assert check_delivery(retrieval, match) == [(0,), (1,), (2,), (3,), (4,)]
        with cache.retrieve(match, parts=stages[1:], options=options) as retrieval:
            assert check_delivery(retrieval, match, stages[1:]) == [(3,), (4,)]

    def test_groups_match_by_rules_and_chunks_of_their_own(self, cache: KVCache) -> None:
        namespace = new_namespace(WINDOWED)
        chain = prompt(namespace, 32)  # 32 chunks of 16 tokens, 16 of 32, 8 of 64
        store_parts(cache, namespace, chain, FULL, cuts=[10])
        assert cache.match(namespace, chain).tokens == 0
        # The window sees two chunks of 32 tokens, and the state is one of 64.
        cache.commit([upload_part(cache, namespace, chain, SLIDING, first=6, stop=12)])
        assert cache.match(namespace, chain).tokens == 0
        states = [upload_part(cache, namespace, chain, STATE, first=at, stop=at + 1) for at in (4, 6)]
        cache.commit(states)
        match = retrieve_and_check(cache, namespace, chain)
        assert match.tokens == 5 * 64
        ranges = {tuple(part.part): (part.first, part.stop) for part in match.parts}
        assert ranges == {(0, 0): (0, 20), (0, 1): (0, 20), (1, 0): (8, 10), (2, 0): (4, 5)}
        cache.commit([upload_part(cache, namespace, chain, SLIDING, first=12, stop=14)])
        assert retrieve_and_check(cache, namespace, chain).tokens == 7 * 64
        with cache.retrieve(match, parts=[SLIDING], options=LAYERWISE) as retrieval:
            assert check_delivery(retrieval, match, [SLIDING]) == [(1,), (2,)]

    def test_tenants_do_not_see_each_other(self, cache: KVCache) -> None:
        mine = new_namespace(LAYOUT, salt="mine")
        store_parts(cache, mine, prompt(mine, 4))
        for other in (new_namespace(LAYOUT, model=mine.model, salt="yours"), new_namespace(LAYOUT, model=mine.model)):
            assert cache.match(other, prompt(other, 4)).tokens == 0
            assert cache.match(other, prompt(mine, 4)).tokens == 0
        assert retrieve_and_check(cache, mine, prompt(mine, 4)).tokens == 64

    def test_a_lease_that_was_given_back_is_no_lease(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 4)
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        assert match.lease is not None
        assert match.lease.ttl_s > 0
        cache.release(match)
        cache.release(match)
        with pytest.raises(LeaseExpiredError):
            cache.retrieve(match)
        assert retrieve_and_check(cache, namespace, chain).tokens == 64

    @pytest.mark.parametrize("parts", [[], [PartId(0, 1)], [PartId(0, 0), PartId(5, 0)]])
    def test_only_what_matched_is_retrieved(self, cache: KVCache, parts: list[PartId]) -> None:
        namespace = new_namespace(TENSOR_PARALLEL)
        chain = prompt(namespace, 4)
        store_parts(cache, namespace, chain, [PartId(0, 0)])
        match = cache.match(namespace, chain, parts=[PartId(0, 0)])
        with pytest.raises(RequestError):
            cache.retrieve(match, parts=parts)
