"""Reading an object of RADOS: ranges of its data objects, several at a time, some of them before they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from threading import Lock

from objectcache.errors import ObjectChangedError, ObjectNotFoundError, StoreError
from objectcache.stores.base import ObjectInfo
from objectcache.stores.prefetch import PrefetchBudget
from objectcache.stores.rados.connection import Pool
from objectcache.stores.rados.entry import Entry, first_id
from objectcache.stores.rados.index import Index
from objectcache.stores.rados.stripes import Stripes, cuts
from objectcache.stores.ranged import RangedReader, SupersededReadError

Located = tuple[Entry, bytes]
"""What the index has of an object, and its bytes if they are there."""


class RadosFetching:
    """What the readers of one store share."""

    def __init__(self, pool: Pool, index: Index, stripes: Stripes, stripe_bytes: int, prefetch_bytes: int) -> None:
        self.pool, self.index, self.stripes = pool, index, stripes
        self.stripe_bytes = stripe_bytes
        self.budget = PrefetchBudget(prefetch_bytes)


class RadosReader(RangedReader):
    """An object as it was when it was opened, or, opened with its size only, first read.

    Goes on for a while when the object is deleted or replaced; then ObjectNotFoundError.

    Of an object whose size is known, what is read first is asked for together with where it is: under the id that the
    first object of that name has. Data objects are written once, so that whole ranges of them are what the entry means
    when it turns out to have that id; otherwise they are asked for again.
    """

    def __init__(self, info: ObjectInfo, key: str, fetching: RadosFetching, located: Located | None) -> None:
        super().__init__(info, fetching.budget, width=fetching.pool.depth, patience_s=fetching.pool.patience_s)
        self._key, self._fetching = key, fetching
        self._guess = first_id(key)
        self._lock = Lock()
        self._lookup: Future[Located | None] | None = None
        self._located = located
        self._doing = f"reading {info.name!r}"

    def _cut(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        entry = self._located[0] if self._located else None
        if entry is not None and not entry.id:
            return iter([(start, stop)])
        return cuts(entry.stripe_bytes if entry else self._fetching.stripe_bytes, start, stop)

    def _get(self, start: int, stop: int) -> memoryview:
        if self._located is None:
            try:
                return self._result(self._begin_blind(start, stop, early=False))
            except SupersededReadError:
                pass
        entry, inline = self._where()
        if not entry.id:
            return memoryview(inline)[start:stop]
        parts = [self._get_one(entry, at, end) for at, end in cuts(entry.stripe_bytes, start, stop)]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def _get_one(self, entry: Entry, start: int, stop: int) -> memoryview:
        number, offset = divmod(start, entry.stripe_bytes)
        return self._fetching.stripes.read(entry.id, number, offset, stop - start, self._doing)

    def _begin(self, start: int, stop: int) -> Future[memoryview]:
        return self._begun(start, stop, early=False)

    def _begin_early(self, start: int, stop: int) -> Future[memoryview]:
        try:
            return self._begun(start, stop, early=True)
        except StoreError as error:
            raise RuntimeError(str(error)) from error

    def _begun(self, start: int, stop: int, *, early: bool) -> Future[memoryview]:
        if self._located is None:
            return self._begin_blind(start, stop, early=early)
        entry, inline = self._located
        if not entry.id:
            ready: Future[memoryview] = Future()
            ready.set_result(memoryview(inline)[start:stop])
            return ready
        number, offset = divmod(start, entry.stripe_bytes)
        if offset + stop - start > entry.stripe_bytes:  # it was cut before that was known
            superseded: Future[memoryview] = Future()
            superseded.set_exception(SupersededReadError("cut otherwise"))
            return superseded
        return self._fetching.stripes.begin_read(entry.id, number, offset, stop - start, self._doing, early=early)

    def _begin_blind(self, start: int, stop: int, *, early: bool) -> Future[memoryview]:
        """The range as it is if the object has the id and the cut that are likely. SupersededReadError: it has not."""
        with self._lock:
            if self._lookup is None:
                self._lookup = self._fetching.index.begin_lookup(self._key)
            lookup = self._lookup
        stripe_bytes = self._fetching.stripe_bytes
        number, offset = divmod(start, stripe_bytes)
        answer: Future[memoryview] = Future()
        answer.set_running_or_notify_cancel()
        if offset + stop - start > stripe_bytes:
            answer.set_exception(SupersededReadError("cut otherwise"))
            return answer
        data = self._fetching.stripes.begin_read(self._guess, number, offset, stop - start, self._doing, early=early)

        def located(_: Future[Located | None]) -> None:
            try:
                entry = self._note(lookup)[0]
            except StoreError as error:
                answer.set_exception(error)
                return
            if entry.id == self._guess and entry.stripe_bytes == stripe_bytes:
                data.add_done_callback(arrived)
            else:
                answer.set_exception(SupersededReadError("another id"))

        def arrived(_: Future[memoryview]) -> None:
            error = data.exception()
            if isinstance(error, ObjectNotFoundError):
                # It may have been asked for before it was written.
                answer.set_exception(SupersededReadError("not there yet"))
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(data.result())

        lookup.add_done_callback(located)
        return answer

    def _where(self) -> Located:
        """Blocks. Raises ObjectNotFoundError, ObjectChangedError."""
        if self._located is not None:
            return self._located
        with self._lock:
            if self._lookup is None:
                self._lookup = self._fetching.index.begin_lookup(self._key)
            lookup = self._lookup
        lookup.result(self._patience_s)
        return self._note(lookup)

    def _note(self, lookup: Future[Located | None]) -> Located:
        try:
            located = lookup.result()
        except StoreError:
            self._lookup = None  # the next read asks again
            raise
        if located is None:
            raise ObjectNotFoundError(f"{self.info.name!r} is not stored")
        entry = located[0]
        if entry.size_bytes != self.info.size_bytes:
            raise ObjectChangedError(
                f"{self.info.name!r} is not what was opened: it has {entry.size_bytes} bytes, not "
                f"{self.info.size_bytes}"
            )
        self._located = located
        return located
