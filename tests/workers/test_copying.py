"""Objects made of ranges of others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import ObjectChangedError, ObjectExistsError, ObjectNotFoundError, RangeError
from objectcache.stores import FileStore, MemoryStore, Store
from objectcache.workers.copying import Source, copy_ranges


def source(store: Store, name: str, first: int, stop: int) -> Source:
    return store, name, store.head(name).etag, first, stop - first


@given(
    data=st.binary(min_size=1, max_size=200),
    ranges=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=5),
    digest=st.booleans(),
)
def test_ranges_one_after_the_other(data: bytes, ranges: list[tuple[int, int]], digest: bool) -> None:
    with MemoryStore(1 << 30) as store, MemoryStore(1 << 30) as other:
        store.put("from", data)
        bounds = [sorted((first % (len(data) + 1), stop % (len(data) + 1))) for first, stop in ranges]
        sources = [source(store, "from", first, stop) for first, stop in bounds]
        info = copy_ranges(sources, other, "to", etag="given", digest=digest, metadata={"a": "b"})
        expected = b"".join(data[first:stop] for first, stop in bounds)
        assert other.get("to") == expected
        assert info.etag == (hashlib.md5(expected).hexdigest() if digest else "given")
        assert dict(info.metadata) == {"a": "b"}


@pytest.mark.parametrize("digest", [False, True])
def test_files(tmp_path: Path, digest: bool) -> None:
    data = hashlib.shake_128(b"").digest(3 << 20)
    with (
        FileStore(tmp_path / "one", limit_bytes=1 << 30) as one,
        FileStore(tmp_path / "two", limit_bytes=1 << 30) as two,
    ):
        one.put("a", data)
        two.put("b", b"end")
        sources = [source(one, "a", 1, 3 << 20), source(two, "b", 0, 3)]
        info = copy_ranges(sources, two, "b", etag="e-2", digest=digest)
        assert two.get("b") == data[1:] + b"end"
        assert two.head("b").etag == info.etag
        # Onto itself, and it is what it was.
        copy_ranges([source(two, "b", 0, info.size_bytes)], two, "b", etag="again", digest=False)
        assert two.get("b") == data[1:] + b"end"


def test_a_copy_that_fails_leaves_what_was_there() -> None:
    with MemoryStore(1 << 30) as store:
        store.put("from", b"data")
        store.put("to", b"before")
        whole = source(store, "from", 0, 4)
        for wrong, error in (
            ([whole, (store, "from", "another", 0, 4)], ObjectChangedError),
            ([whole, (store, "missing", "x", 0, 4)], ObjectNotFoundError),
            ([whole, source(store, "from", 0, 5)], RangeError),
        ):
            with pytest.raises(error):
                copy_ranges(wrong, store, "to", etag="", digest=True)
        with pytest.raises(ObjectExistsError):
            copy_ranges([whole], store, "to", etag="", digest=True, if_absent=True)
        with pytest.raises(ObjectChangedError):
            copy_ranges([whole], store, "to", etag="", digest=True, if_match="another")
        assert store.get("to") == b"before"
        assert store.usage().used_bytes == 10
