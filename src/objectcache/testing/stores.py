"""What every store must do, as pytest tests: subclass `StoreContract`, and say how to make a store.

class TestMyStore(StoreContract):
    def make_store(self, limit_bytes: int | None = None) -> Store:
        return MyStore(...)
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from objectcache.errors import (
    InvalidObjectNameError,
    ObjectNotFoundError,
    RangeError,
    StoreError,
)
from objectcache.stores.base import ObjectReader, Store
from objectcache.testing.store_listing import ListingContract, stored_names
from objectcache.testing.store_model import check_against_model
from objectcache.testing.store_uploads import LimitContract, UploadContract

BAD_NAMES = [
    *("", "/", "/a", "a/", "a//b", ".", "..", "a/.", "a/..", "../a", "./a", "a/../b", "a/./b"),
    *("a\x00", "a\nb", "\x7f", "a\t", "\ud800", "x" * 1025, "é" * 513),
]


def _read_by_files(reader: ObjectReader, offset: int, length: int) -> bytes:
    """A range by way of the files that it lies in, if it does."""
    with reader.files(offset, length) as ranges:
        if ranges is None:
            return reader.read(offset, length)
        return b"".join(os.pread(file.descriptor, file.length, file.offset) for file in ranges)


class StoreContract(ListingContract, UploadContract, LimitContract, ABC):
    """The contract of `objectcache.stores.base`, sentence by sentence. Each test gets an empty store of its own."""

    keeps_open_readers: ClassVar[bool] = True
    """Whether readers go on when their object is deleted or replaced."""
    counts_bytes: ClassVar[bool] = True
    """Whether the store knows its usage and keeps a limit."""
    model_examples: ClassVar[int] = 40
    """How many random sequences of calls `test_is_like_a_dict` runs."""

    @abstractmethod
    def make_store(self, limit_bytes: int | None = None) -> Store:
        """An empty store, closed by the caller."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with self.make_store() as store:
            yield store

    @pytest.fixture
    def small_store(self) -> Iterator[Store]:
        """A store with a limit of 64 KiB."""
        if not self.counts_bytes:
            pytest.skip("this store keeps no limit of its own")
        with self.make_store(64 << 10) as store:
            yield store

    def test_is_like_a_dict(self) -> None:
        check_against_model(
            self.make_store,
            counts_bytes=self.counts_bytes,
            keeps_open_readers=self.keeps_open_readers,
            like_a_tree=self.like_a_tree,
            examples=self.model_examples,
        )

    # -- objects ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("size_bytes", [0, 1, 4096, 300_001])
    def test_what_is_put_is_got(self, store: Store, size_bytes: int) -> None:
        data = bytes(range(256)) * (size_bytes // 256 + 1)
        info = store.put("a/b", data[:size_bytes])
        assert (info.name, info.size_bytes) == ("a/b", size_bytes)
        assert store.get("a/b") == data[:size_bytes]

    def test_all_ways_to_an_object_tell_the_same(self, store: Store) -> None:
        info = store.put("a", b"1234")
        head = store.head("a")
        with store.open("a") as reader:
            assert reader.info == head
        assert list(store.list()) == [head]
        assert (info.name, info.size_bytes, info.etag) == (head.name, head.size_bytes, head.etag)

    def test_put_replaces_and_the_etag_tells(self, store: Store) -> None:
        etag = ""
        for data in (b"old", b"new", b"old", b"longer", b""):
            before, etag = etag, store.put("a", data).etag
            assert etag != before
            assert store.get("a") == data

    def test_the_etag_tells_an_object_put_after_a_delete(self, store: Store) -> None:
        etags = set()
        for round_ in range(20):
            etags.add(store.put("a", b"%04d" % round_).etag)
            store.delete("a")
        assert len(etags) == 20

    def test_buffers_of_any_format_are_bytes(self, store: Store) -> None:
        grid = memoryview(bytes(range(24))).cast("I", shape=[2, 3])
        assert store.put("a", grid).size_bytes == 24
        out = memoryview(bytearray(24)).cast("H", shape=[3, 4])
        with store.open("a") as reader:
            reader.read_into(0, out)
        assert out.tobytes() == grid.tobytes()

    def test_what_was_written_is_a_copy(self, store: Store) -> None:
        data = bytearray(b"before")
        with store.upload("a") as upload:
            upload.write(data)
            data[:] = b"after!"
            upload.publish()
        assert store.get("a") == b"before"

    def test_absent(self, store: Store) -> None:
        store.put("a/b", b"1")
        for name in ("b", "a", "a/b/c", "a/c", "A/b"):
            with pytest.raises(ObjectNotFoundError):
                store.open(name)
            with pytest.raises(ObjectNotFoundError):
                store.head(name)
            with pytest.raises(ObjectNotFoundError):
                store.get(name)

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_bad_names(self, store: Store, name: str) -> None:
        for call in (store.open, store.head, store.get, store.delete, store.upload):
            with pytest.raises(InvalidObjectNameError):
                call(name)
        with pytest.raises(InvalidObjectNameError):
            store.put(name, b"")
        assert stored_names(store) == []

    def test_delete(self, store: Store) -> None:
        for name in ("a", "a/b", "a/b/c"):
            store.put(name, name.encode())
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/was")
        assert stored_names(store) == ["a", "a/b/c"]
        store.put("a/b", b"again")
        assert store.get("a/b") == b"again"

    # -- reading ----------------------------------------------------------------------------------

    def test_ranges(self, store: Store) -> None:
        store.put("a", b"0123456789")
        with store.open("a") as reader:
            assert reader.read(0, 10) == b"0123456789"
            assert reader.read(3, 4) == b"3456"
            assert reader.read(10, 0) == b""
            for offset, length in ((0, 11), (10, 1), (11, 0), (-1, 1), (1 << 40, 1), (0, 1 << 62), (2, -1)):
                with pytest.raises(RangeError):
                    reader.read(offset, length)
            out = bytearray(b"-" * 6)
            reader.read_into(4, memoryview(out)[1:4])
            assert out == b"-456--"
            with pytest.raises(RangeError):
                reader.read_into(8, memoryview(out))
            assert reader.read(9, 1) == b"9"

    def test_an_empty_object(self, store: Store) -> None:
        store.put("a", b"")
        with store.open("a") as reader:
            assert reader.read(0, 0) == b""
            with pytest.raises(RangeError):
                reader.read(0, 1)

    def test_a_closed_reader(self, store: Store) -> None:
        store.put("a", b"1")
        with store.open("a") as reader:
            pass
        reader.close()
        with pytest.raises(StoreError):
            reader.read(0, 1)

    def test_readers_go_on_when_the_name_is_deleted_or_replaced(self, store: Store) -> None:
        if not self.keeps_open_readers:
            pytest.skip("this store cannot keep deleted objects readable")
        store.put("a", b"first")
        with store.open("a") as first:
            store.put("a", b"second")
            with store.open("a") as second:
                store.delete("a")
                assert first.read(0, 5) == b"first"
                assert second.read(0, 6) == b"second"

    def test_files_and_prefetch(self, store: Store) -> None:
        data = bytes(range(256)) * 9000
        store.put("a", data)
        with store.open("a") as reader:
            reader.prefetch(0, len(data))
            reader.prefetch(len(data), 100)
            for offset, length in ((0, len(data)), (3, 5), (2_000_000, 200_000), (len(data), 0)):
                assert _read_by_files(reader, offset, length) == data[offset : offset + length]
            with pytest.raises(RangeError):
                _read_by_files(reader, len(data) - 1, 2)

    def test_a_known_size_changes_nothing(self, store: Store) -> None:
        store.put("a", b"0123456789")
        with store.open("a", size_bytes=10) as reader:
            assert (reader.info.name, reader.info.size_bytes) == ("a", 10)
            assert reader.read(3, 4) == b"3456"
            with pytest.raises(RangeError):
                reader.read(5, 6)
        with pytest.raises(ObjectNotFoundError), store.open("b", size_bytes=10) as reader:
            reader.read(0, 1)

    def test_readers_in_many_threads(self, store: Store) -> None:
        data = b"".join(b"%07d\n" % i for i in range(4096))
        store.put("a", data)
        with store.open("a") as reader, ThreadPoolExecutor(8) as threads:
            offsets = [i * 487 % (len(data) - 800) for i in range(200)]
            for offset, read in zip(offsets, threads.map(lambda at: reader.read(at, 800), offsets), strict=True):
                assert read == data[offset : offset + 800]

    def test_close_during_reads_gives_the_right_bytes_or_an_error(self, store: Store) -> None:
        size_bytes = 1 << 20
        store.put("a", b"a" * size_bytes)
        store.put("b", b"b" * size_bytes)
        for _ in range(10):
            reader = store.open("a")
            with ThreadPoolExecutor(3) as threads:
                reads = [threads.submit(reader.read, 0, size_bytes) for _ in range(3)]
                reader.close()
                with store.open("b") as other:
                    assert other.read(0, size_bytes) == b"b" * size_bytes
            for read in reads:
                error = read.exception()
                assert isinstance(error, StoreError) if error else read.result() == b"a" * size_bytes
