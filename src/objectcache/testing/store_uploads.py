"""What every store must do, as pytest tests: uploads and limits. Part of `objectcache.testing.stores.StoreContract`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier

import pytest

from objectcache.errors import (
    MetadataError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RangeError,
    StoreError,
    StoreFullError,
)
from objectcache.stores.base import ObjectUpload, Store
from objectcache.testing.store_listing import stored_names

_KIB = 1 << 10


def _assert_ended(upload: ObjectUpload) -> None:
    with pytest.raises(StoreError):
        upload.write(b"more")
    with pytest.raises(StoreError):
        upload.publish()
    upload.abort()


class UploadContract:
    """Uploads, to stores given by a fixture `store`."""

    def test_invisible_until_published(self, store: Store) -> None:
        store.put("a", b"old")
        with store.upload("a") as replacing, store.upload("b/c", size_bytes=6) as adding:
            for upload in (replacing, adding):
                upload.write(b"new")
                upload.write(b"")
                upload.write(memoryview(b"new"))
            assert store.get("a") == b"old"
            assert stored_names(store) == ["a"]
            assert list(store.list_prefixes()) == []
            with pytest.raises(ObjectNotFoundError):
                store.head("b/c")
            for upload in (replacing, adding):
                assert upload.publish().size_bytes == 6
        assert store.get("a") == store.get("b/c") == b"newnew"
        assert stored_names(store) == ["a", "b/c"]

    def test_aborted(self, store: Store) -> None:
        store.put("a", b"old")
        with store.upload("a", size_bytes=10) as left, store.upload("b") as aborted:
            left.write(b"new")
            aborted.write(b"new")
            aborted.abort()
            _assert_ended(aborted)
        _assert_ended(left)
        with suppress(KeyError), store.upload("c") as failed:
            failed.write(b"new")
            raise KeyError
        _assert_ended(failed)
        assert stored_names(store) == ["a"]
        assert store.get("a") == b"old"

    def test_ended(self, store: Store) -> None:
        with store.upload("a") as upload:
            upload.write(b"1")
            upload.publish()
            _assert_ended(upload)
        assert store.get("a") == b"1"

    @pytest.mark.parametrize("size_bytes", [0, 1, 5, 5000])
    def test_the_size_is_a_reservation_not_a_promise(self, store: Store, size_bytes: int) -> None:
        with store.upload("a", size_bytes=size_bytes) as upload:
            upload.write(b"12345")
            assert upload.publish().size_bytes == 5
        assert store.get("a") == b"12345"

    def test_a_negative_size(self, store: Store) -> None:
        with pytest.raises(StoreError):
            store.upload("a", size_bytes=-1)

    def test_if_absent(self, store: Store) -> None:
        store.put("a", b"1", if_absent=True)
        with pytest.raises(ObjectExistsError):
            store.put("a", b"2", if_absent=True)
        with store.upload("b", if_absent=True) as late:
            late.write(b"late")
            store.put("b", b"early", if_absent=True)
            with pytest.raises(ObjectExistsError):
                late.publish()
            _assert_ended(late)
        assert store.get("a") == b"1"
        assert store.get("b") == b"early"
        store.delete("a")
        store.put("a", b"3", if_absent=True)
        assert store.get("a") == b"3"

    def test_if_match(self, store: Store) -> None:
        first = store.put("a", b"1")
        with pytest.raises(ObjectChangedError):
            store.put("a", b"2", if_match="another")
        second = store.put("a", b"2", if_match=first.etag)
        with pytest.raises(ObjectChangedError):
            store.put("a", b"3", if_match=first.etag)
        with store.upload("a", if_match=second.etag) as late:
            late.write(b"late")
            store.put("a", b"early")
            with pytest.raises(ObjectChangedError):
                late.publish()
            _assert_ended(late)
        assert store.get("a") == b"early"
        store.put("a", b"any", if_match="*")
        assert store.get("a") == b"any"
        for if_match in (first.etag, "*"):
            with pytest.raises(ObjectNotFoundError):
                store.put("d/none", b"1", if_match=if_match)
        assert stored_names(store) == ["a"]

    def test_if_match_has_one_winner(self, store: Store) -> None:
        runners = 6
        barrier = Barrier(runners)
        store.put("a", b"0")

        def run(runner: int) -> int:
            won = 0
            for round_ in range(20):
                etag = store.head("a").etag
                barrier.wait(30)
                with suppress(ObjectChangedError):
                    store.put("a", b"%d %d" % (round_, runner), if_match=etag)
                    won += 1
                barrier.wait(30)
            return won

        with ThreadPoolExecutor(runners) as threads:
            assert sum(threads.map(run, range(runners))) == 20

    def test_metadata(self, store: Store) -> None:
        kept = {
            "content-type": "text/plain; charset=utf-8",
            "x-amz-meta-a.b": "é, and  spaces ",
            "x-amz-meta-empty": "",
        }
        store.put("a", b"1", metadata=kept)
        assert store.head("a").metadata == kept
        with store.open("a") as reader:
            assert reader.info.metadata == kept
        assert [info.metadata for info in store.list()] == [{}]
        store.put("a", b"2")
        assert store.head("a").metadata.keys() <= {"content-type"}
        store.put("b", b"1", metadata={"x-amz-meta-long": "x" * 2000})
        assert store.head("b").metadata["x-amz-meta-long"] == "x" * 2000

    def test_metadata_that_is_known_at_the_end(self, store: Store) -> None:
        """Kept with the rest, or not at all."""
        with store.upload("a", metadata={"content-type": "text/plain"}) as upload:
            upload.write(b"1")
            upload.add_metadata({"x-amz-meta-late": "kept"})
            upload.publish()
        found = store.head("a").metadata
        assert found["content-type"] == "text/plain"
        assert found.get("x-amz-meta-late", "kept") == "kept"

    @pytest.mark.parametrize(
        "metadata", [{"x": "y" * 4000}, {"Upper": ""}, {"": ""}, {"a b": ""}, {"x": "a\nb"}, {"x": "\ud800"}], ids=str
    )
    def test_bad_metadata(self, store: Store, metadata: dict[str, str]) -> None:
        with pytest.raises(MetadataError):
            store.put("a", b"", metadata=metadata)
        assert stored_names(store) == []

    def test_an_etag_that_is_given(self, store: Store) -> None:
        with store.upload("a") as upload:
            upload.write(b"1")
            info = upload.publish(etag=hashlib.md5(b"1").hexdigest())
        assert store.head("a").etag == info.etag == next(store.list()).etag
        assert store.put("a", b"2").etag != info.etag

    def test_copies(self, store: Store) -> None:
        data = bytes(range(256)) * 12_000
        store.put("a", data)
        with store.open("a") as source, store.upload("b") as upload:
            upload.write(b"begin")
            upload.write_from(source, 0, len(data))
            upload.write_from(source, 100, 5)
            upload.write_from(source, 7, 0)
            upload.write(b"end")
            upload.publish()
        assert store.get("b") == b"begin" + data + data[100:105] + b"end"
        with store.open("a") as source, store.upload("c") as upload, pytest.raises(RangeError):
            upload.write_from(source, len(data) - 1, 2)
        assert stored_names(store) == ["a", "b"]

    def test_if_absent_has_one_winner(self, store: Store) -> None:
        runners = 6
        barrier = Barrier(runners)

        def run(runner: int) -> list[str]:
            won = []
            for round_ in range(20):
                barrier.wait(30)
                try:
                    store.put(f"d{round_}/a", b"%d" % runner, if_absent=True)
                    won.append(f"d{round_}/a")
                except ObjectExistsError:
                    pass
            return won

        with ThreadPoolExecutor(runners) as threads:
            wins = list(threads.map(run, range(runners)))
        assert sorted(name for won in wins for name in won) == sorted(f"d{round_}/a" for round_ in range(20))
        for runner, won in enumerate(wins):
            assert all(store.get(name) == b"%d" % runner for name in won)

    def test_many_threads_never_see_a_part(self, store: Store) -> None:
        def put_and_delete(runner: int) -> None:
            for step in range(25):
                store.put("shared/a", bytes([runner]) * (1000 + runner))
                store.put(f"own/{runner}/a", bytes([step]) * step)
                if step % 3 == 0:
                    store.delete("shared/a")
                assert store.get(f"own/{runner}/a") == bytes([step]) * step
                store.delete(f"own/{runner}/a")

        def look(_: int) -> None:
            for _step in range(50):
                try:
                    data = store.get("shared/a")
                except ObjectNotFoundError:
                    continue
                assert data == data[:1] * (1000 + data[0])
                assert set(stored_names(store, "shared/")) <= {"shared/a"}

        def run(task: tuple[Callable[[int], None], int]) -> None:
            task[0](task[1])

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(run, [(put_and_delete, i) for i in range(4)] + [(look, i) for i in range(4)]))
        store.delete("shared/a")
        assert stored_names(store) == []


class LimitContract:
    """Bytes, of stores given by a fixture `small_store`, whose limit is 64 KiB."""

    def test_usage_follows_what_is_held(self, small_store: Store) -> None:
        def used_bytes() -> int:
            return small_store.usage().used_bytes

        assert small_store.usage().limit_bytes == 64 * _KIB
        empty_bytes = used_bytes()
        small_store.put("a", b"x" * 1000)
        assert used_bytes() == empty_bytes + 1000
        small_store.put("a", b"x" * 300)
        assert used_bytes() == empty_bytes + 300
        with small_store.upload("b", size_bytes=5000) as upload:
            assert used_bytes() == empty_bytes + 5300
            upload.write(b"x" * 1000)
            assert used_bytes() == empty_bytes + 5300
            upload.write(b"x" * 5000)
            assert used_bytes() == empty_bytes + 6300
        assert used_bytes() == empty_bytes + 300
        with small_store.upload("b", size_bytes=5000) as upload:
            upload.write(b"x")
            upload.publish()
            assert used_bytes() == empty_bytes + 301
        with pytest.raises(ObjectExistsError):
            small_store.put("b", b"xx", if_absent=True)
        assert used_bytes() == empty_bytes + 301
        for name in ("a", "a", "b", "never"):
            small_store.delete(name)
        assert used_bytes() == empty_bytes

    def test_full(self, small_store: Store) -> None:
        small_store.put("a", b"a" * (40 * _KIB))
        before = small_store.usage()
        with pytest.raises(StoreFullError):
            small_store.put("b", b"b" * (25 * _KIB))
        with pytest.raises(StoreFullError):
            small_store.upload("b", size_bytes=25 * _KIB)
        with small_store.upload("b") as upload:
            upload.write(b"b" * (20 * _KIB))
            with pytest.raises(StoreFullError):
                upload.write(b"b" * (5 * _KIB))
            _assert_ended(upload)
        assert small_store.usage() == before
        assert stored_names(small_store) == ["a"]
        assert small_store.get("a") == b"a" * (40 * _KIB)
        small_store.put("b", b"b" * (24 * _KIB))
        with pytest.raises(StoreFullError):
            small_store.put("c", b"c")
        small_store.put("c", b"")
        small_store.delete("a")
        small_store.put("d", b"d" * (40 * _KIB))
        assert stored_names(small_store) == ["b", "c", "d"]

    def test_reservations_count(self, small_store: Store) -> None:
        with small_store.upload("a", size_bytes=50 * _KIB) as upload:
            with pytest.raises(StoreFullError):
                small_store.put("b", b"b" * (20 * _KIB))
            upload.write(b"a" * (50 * _KIB))
            upload.publish()
        assert stored_names(small_store) == ["a"]

    def test_threads_do_not_pass_the_limit(self, small_store: Store) -> None:
        def run(runner: int) -> int:
            stored = 0
            for step in range(20):
                try:
                    small_store.put(f"{runner}/{step}", b"x" * 1000)
                    stored += 1
                except StoreFullError:
                    pass
            return stored

        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(run, range(4))) == 65
        assert len(stored_names(small_store)) == 65
        for name in stored_names(small_store):
            small_store.delete(name)
        assert small_store.usage().used_bytes == 0
