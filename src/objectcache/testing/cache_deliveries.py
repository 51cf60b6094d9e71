"""What every cache must do, as pytest tests: deliveries. Part of `objectcache.testing.caches`."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from objectcache.cache import CHUNKWISE, KVCache, PartId, RetrieveOptions
from objectcache.errors import BufferPoolExhaustedError, DeliveryCancelledError, DeliveryError, DeliveryTimeoutError
from objectcache.layout import KVLayout
from objectcache.testing.synthetic import (
    check_delivery,
    check_layer,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)

LAYOUT = flat_layout(5, 3000)
SIZES = {
    "one byte": (flat_layout(3, 1), 70),
    "tiny and odd": (flat_layout(2, 33), 1000),
    "pieces of several slices": (flat_layout(2, 300_000), 7),
    "more than a frame": (flat_layout(2, (3 << 19) + 5), 3),
    "one chunk": (flat_layout(4, 4096), 1),
    "chunks of one token": (flat_layout(2, 64, chunk_tokens=1), 40),
}


class DeliveryContract:
    """Deliveries, of caches given by a fixture `cache`."""

    @abstractmethod
    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache: ...

    @pytest.mark.parametrize(
        ("layers_per_unit", "units"),
        [
            (1, [(0,), (1,), (2,), (3,), (4,)]),
            (2, [(0, 1), (2, 3), (4,)]),
            (5, [(0, 1, 2, 3, 4)]),
            (CHUNKWISE, [(0, 1, 2, 3, 4)]),
        ],
    )
    def test_units_come_in_order_and_as_large_as_asked_for(
        self, cache: KVCache, layers_per_unit: int, units: list[tuple[int, ...]]
    ) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 6)
        store_parts(cache, namespace, chain, cuts=[1, 4])
        match = cache.match(namespace, chain)
        with cache.retrieve(match, options=RetrieveOptions(layers_per_unit=layers_per_unit)) as retrieval:
            assert check_delivery(retrieval, match) == units

    def test_the_storage_side_may_choose_the_units(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 6)
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        with cache.retrieve(match, options=RetrieveOptions(layers_per_unit=0)) as retrieval:
            units = check_delivery(retrieval, match)
        assert [layer for unit in units for layer in unit] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(("layout", "chunks"), SIZES.values(), ids=SIZES.keys())
    def test_slices_of_any_size(self, cache: KVCache, layout: KVLayout, chunks: int) -> None:
        namespace = new_namespace(layout)
        chain = prompt(namespace, chunks)
        store_parts(cache, namespace, chain)
        tokens = layout.key_tokens
        assert retrieve_and_check(cache, namespace, chain).tokens == chunks * tokens
        assert retrieve_and_check(cache, namespace, chain[: chunks // 2]).tokens == chunks // 2 * tokens

    def test_layers_may_be_waited_for_in_any_order(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 6)
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        with cache.retrieve(match) as retrieval:
            assert retrieval.geometry.payload_bytes == match.payload_bytes == 6 * 5 * 3000
            for layer in (3, 0, 4, 4, 1, 2):
                retrieval.wait(layer)
                assert (retrieval.landed_s(layer) or 0) >= retrieval.requested_s
                check_layer(retrieval, match.parts, layer)
            assert retrieval.complete
            assert retrieval.error is None

    def test_after_its_close_a_retrieval_shows_nothing(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 6)
        store_parts(cache, namespace, chain)
        retrieval = cache.retrieve(cache.match(namespace, chain))
        retrieval.wait(0)
        retrieval.close()
        retrieval.close()
        with pytest.raises(DeliveryError):
            retrieval.view(0)
        with pytest.raises(DeliveryCancelledError):
            retrieval.wait(0)

    def test_one_lease_serves_many_retrievals_in_many_threads(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chains = [prompt(namespace, 12, seed=seed, shared=min(seed, 4)) for seed in range(6)]
        for chain in chains:
            store_parts(cache, namespace, chain, cuts=[5])
        matches = [cache.match(namespace, chain) for chain in chains]

        def retrieve(turn: int) -> None:
            match = matches[turn % len(matches)]
            with cache.retrieve(match, options=RetrieveOptions(layers_per_unit=turn % 4)) as retrieval:
                check_delivery(retrieval, match)

        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(retrieve, turn) for turn in range(48)]:
                done.result(60)

    def test_retrievals_that_are_open_together_have_memory_of_their_own(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        matches = []
        for seed in range(3):
            chain = prompt(namespace, 6, seed=seed)
            store_parts(cache, namespace, chain)
            matches.append(cache.match(namespace, chain))
        retrievals = [cache.retrieve(match) for match in matches * 2]
        for _ in range(2):
            for retrieval, match in zip(retrievals, matches * 2, strict=True):
                check_delivery(retrieval, match)
        for retrieval in retrievals:
            retrieval.close()

    def test_writing_goes_on_beside_reading(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        store_parts(cache, namespace, prompt(namespace, 12))

        def store(seed: int) -> None:
            chain = prompt(namespace, 12, seed=seed, shared=4)
            cache.commit([upload_part(cache, namespace, chain, first=4)])

        def read(_: int) -> None:
            assert retrieve_and_check(cache, namespace, prompt(namespace, 12)).tokens == 12 * 16

        with ThreadPoolExecutor(4) as threads:
            work = [threads.submit(run, turn) for turn in range(1, 9) for run in (store, read)]
            for done in work:
                done.result(60)
        for seed in range(1, 9):
            assert retrieve_and_check(cache, namespace, prompt(namespace, 12, seed=seed, shared=4)).tokens == 12 * 16

    def test_a_pool_that_is_used_up_says_so_and_recovers(self) -> None:
        namespace = new_namespace(flat_layout(2, 1 << 16))
        chain = prompt(namespace, 6)
        with self.open_cache(buffer_bytes=1 << 20) as cache:
            store_parts(cache, namespace, chain)
            match = cache.match(namespace, chain)
            with cache.retrieve(match) as retrieval:
                with pytest.raises(BufferPoolExhaustedError):
                    cache.retrieve(match)
                check_delivery(retrieval, match)
            with cache.retrieve(match) as retrieval:
                check_delivery(retrieval, match)

    def test_a_deadline_that_cannot_be_kept_is_late_and_nothing_else(self, cache: KVCache) -> None:
        namespace = new_namespace(flat_layout(8, 1 << 18))
        chain = prompt(namespace, 16)
        store_parts(cache, namespace, chain)
        match = cache.match(namespace, chain)
        for deadline_s in (0.0, 1e-6, 0.002):
            options = RetrieveOptions(deadline_s=deadline_s)
            with suppress(DeliveryTimeoutError), cache.retrieve(match, options=options) as retrieval:
                retrieval.wait(7)
                check_layer(retrieval, match.parts, 7)  # it was there before anybody looked
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)

    def test_unknown_layers_are_refused(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        store_parts(cache, namespace, prompt(namespace, 2))
        with cache.retrieve(cache.match(namespace, prompt(namespace, 2))) as retrieval, pytest.raises(KeyError):
            retrieval.wait(5)

    def test_parts_can_be_had_one_by_one(self, cache: KVCache) -> None:
        layout = KVLayout.attention(num_layers=2, num_kv_heads=4, head_dim=8, dtype_bytes=2, tensor_parallel=4)
        namespace = new_namespace(layout)
        chain = prompt(namespace, 4)
        shards = [PartId(0, shard) for shard in range(4)]
        store_parts(cache, namespace, chain, shards)
        match = cache.match(namespace, chain)
        for wanted in ([shards[2]], shards[1:3], [shards[3], shards[0]]):
            with cache.retrieve(match, parts=wanted) as retrieval:
                assert len(retrieval.geometry.parts) == len(wanted)
                check_delivery(retrieval, match, wanted)
