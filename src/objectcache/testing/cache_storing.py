"""What every cache must do, as pytest tests: storing and visibility. Part of `objectcache.testing.caches`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import pytest

from objectcache.cache import KVCache, PartId, UploadTicket
from objectcache.errors import LayoutError, UploadNotFoundError
from objectcache.names import segment_name
from objectcache.testing.synthetic import (
    fill,
    flat_layout,
    layer_bytes_of,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)

PART = PartId(0, 0)
LAYOUT = flat_layout(3, 1000)


class StoringContract:
    """Uploads and commits, to caches given by a fixture `cache`."""

    @abstractmethod
    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache: ...

    @abstractmethod
    def restart(self) -> None: ...

    def test_nothing_matches_before_its_commit_and_all_of_it_after(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 8)
        assert cache.match(namespace, chain).tokens == 0
        upload = cache.store(namespace, chain, PART)
        assert upload is not None
        assert cache.match(namespace, chain).tokens == 0
        for position in range(3):
            upload.write_layer(layer_bytes_of(upload.header, position))
            assert cache.match(namespace, chain).tokens == 0
        ticket = upload.finish()
        assert cache.match(namespace, chain).tokens == 0
        cache.commit([ticket])
        assert cache.match(namespace, chain).tokens == 8 * 16
        retrieve_and_check(cache, namespace, chain)

    def test_a_commit_outlives_a_restart_and_an_upload_without_one_never_matches(self) -> None:
        committed, forgotten, unfinished = (new_namespace(LAYOUT) for _ in range(3))
        chain = prompt(committed, 8)
        with self.open_cache() as cache:
            store_parts(cache, committed, chain)
            upload_part(cache, forgotten, prompt(forgotten, 8))
            upload = cache.store(unfinished, prompt(unfinished, 8), PART)
            assert upload is not None
            upload.write_layer(layer_bytes_of(upload.header, 0))
            upload.abort()
        self.restart()
        with self.open_cache() as cache:
            assert retrieve_and_check(cache, committed, chain).tokens == 8 * 16
            assert cache.match(forgotten, prompt(forgotten, 8)).tokens == 0
            assert cache.match(unfinished, prompt(unfinished, 8)).tokens == 0
            store_parts(cache, forgotten, prompt(forgotten, 8))
            assert retrieve_and_check(cache, forgotten, prompt(forgotten, 8)).tokens == 8 * 16

    def test_another_cache_over_the_same_data_sees_what_is_committed(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 4)
        ticket = upload_part(cache, namespace, chain)
        self_committed = new_namespace(LAYOUT)
        store_parts(cache, self_committed, prompt(self_committed, 4))
        with self.open_cache() as other:
            assert retrieve_and_check(other, self_committed, prompt(self_committed, 4)).tokens == 64
            assert other.match(namespace, chain).tokens == 0
        cache.commit([ticket])
        with self.open_cache() as other:
            assert retrieve_and_check(other, namespace, chain).tokens == 64

    def test_what_is_covered_is_not_stored_again(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 8)
        store_parts(cache, namespace, chain[:6], cuts=[4])
        assert cache.store(namespace, chain, PART, stop=6) is None
        assert cache.store(namespace, chain, PART, first=3, stop=5) is None
        assert cache.store(namespace, chain[:2], PART) is None
        branch = prompt(namespace, 8, seed=1, shared=6)
        assert cache.store(namespace, branch, PART, stop=6) is None
        for first, stop in ((0, 7), (6, 8), (5, 8)):
            upload = cache.store(namespace, branch, PART, first=first, stop=stop)
            assert upload is not None
            upload.abort()

    def test_duplicates_are_legal(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 8)
        uploads = [cache.store(namespace, chain, PART, stop=stop) for stop in (8, 8, 5)]
        tickets = [fill(upload) for upload in uploads if upload is not None]
        assert len({ticket.header.name for ticket in tickets}) == 3
        for ticket in tickets:
            cache.commit([ticket])
            stored = ticket.header.num_chunks
            assert cache.match(namespace, chain[:stored]).tokens == stored * 16
        assert retrieve_and_check(cache, namespace, chain).tokens == 8 * 16

    def test_a_commit_is_all_or_nothing(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 8)
        head = upload_part(cache, namespace, chain, stop=4)
        tail = upload_part(cache, namespace, chain, first=4)
        with pytest.raises(UploadNotFoundError):
            cache.commit([head, _never_uploaded(tail), tail])
        assert cache.match(namespace, chain).tokens == 0
        cache.commit([head, tail])
        assert retrieve_and_check(cache, namespace, chain).tokens == 8 * 16

    def test_a_commit_twice_or_of_one_upload_twice_is_one(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 4)
        ticket = upload_part(cache, namespace, chain)
        cache.commit([ticket, ticket])
        cache.commit([ticket])
        assert retrieve_and_check(cache, namespace, chain).tokens == 64

    def test_a_commit_of_nothing_is_nothing(self, cache: KVCache) -> None:
        cache.commit([])

    def test_what_is_discarded_cannot_be_committed(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 8)
        kept = upload_part(cache, namespace, chain, stop=4)
        dropped = upload_part(cache, namespace, chain, first=4)
        cache.commit([kept], discard=[dropped])
        with pytest.raises(UploadNotFoundError):
            cache.commit([dropped])
        assert retrieve_and_check(cache, namespace, chain).tokens == 64

    def test_a_discard_does_not_take_back_a_commit(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 4)
        (ticket,) = store_parts(cache, namespace, chain)
        cache.commit([], discard=[ticket])
        assert retrieve_and_check(cache, namespace, chain).tokens == 64

    def test_an_aborted_upload_cannot_be_committed(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 4)
        for layers in range(3):
            upload = cache.store(namespace, chain, PART)
            assert upload is not None
            with upload:
                for position in range(layers):
                    upload.write_layer(layer_bytes_of(upload.header, position))
            upload.abort()
            with pytest.raises(UploadNotFoundError):
                cache.commit([UploadTicket(upload.header, upload.header.total_bytes, (bytes(16),) * 3)])
        assert cache.match(namespace, chain).tokens == 0
        store_parts(cache, namespace, chain)
        assert retrieve_and_check(cache, namespace, chain).tokens == 64

    def test_an_upload_takes_just_its_layers(self, cache: KVCache) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 4)
        upload = cache.store(namespace, chain, PART)
        assert upload is not None
        with upload:
            with pytest.raises(LayoutError):
                upload.write_layer(bytes(3999))
            with pytest.raises(LayoutError):
                upload.finish()
            for position in range(3):
                upload.write_layer(memoryview(layer_bytes_of(upload.header, position)))
            with pytest.raises(LayoutError):
                upload.write_layer(bytes(4000))
            ticket = upload.finish()
        upload.abort()
        cache.commit([ticket])
        assert retrieve_and_check(cache, namespace, chain).tokens == 64

    @pytest.mark.parametrize(("first", "stop"), [(0, 5), (-1, 2), (2, 2), (3, 2), (4, None)])
    def test_chunks_outside_the_chain_are_refused(self, cache: KVCache, first: int, stop: int | None) -> None:
        namespace = new_namespace(LAYOUT)
        with pytest.raises(LayoutError):
            cache.store(namespace, prompt(namespace, 4), PART, first=first, stop=stop)

    @pytest.mark.parametrize("part", [PartId(0, 1), PartId(1, 0)])
    def test_parts_that_the_layout_lacks_are_refused(self, cache: KVCache, part: PartId) -> None:
        namespace = new_namespace(LAYOUT)
        chain = prompt(namespace, 4)
        store_parts(cache, namespace, chain)
        with pytest.raises(LayoutError):
            cache.store(namespace, chain, part)
        with pytest.raises(LayoutError):
            cache.match(namespace, chain, parts=[PART, part])


def _never_uploaded(ticket: UploadTicket) -> UploadTicket:
    return replace(ticket, header=replace(ticket.header, name=segment_name("nobody", 1)))
