"""The bytes of objects: data objects of one size, written once and whole, read in ranges, several at a time."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import rados

from objectcache.errors import StoreError, StoreUnavailableError
from objectcache.stores.rados.connection import Handle, Pool
from objectcache.stores.rados.entry import stripe_name
from objectcache.stores.rados.errors import store_error, translated

REMOVED_AT_ONCE = 16
"""No upload has more of its data objects under way: where so many in a row are missing, there are no more."""


class Stripes:
    """Data objects of `pool`. Thread-safe. At most `pool.depth` requests are under way. Raises StoreError."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def read(self, id: str, number: int, offset: int, length: int, doing: str) -> memoryview:
        """Exactly that range of one data object."""
        self._pool.count("get")
        handle = self._pool.handle()
        with handle.using(), translated(doing):
            data = handle.data.read(stripe_name(id, number), length, offset)
        return _whole(data, length, doing)

    def begin_read(
        self, id: str, number: int, offset: int, length: int, doing: str, *, early: bool = False
    ) -> Future[memoryview]:
        """The same, begun. Raises RuntimeError where it would have to wait and is `early`."""
        self._pool.count("get")
        future: Future[memoryview] = Future()
        name = stripe_name(id, number)

        def submit(handle: Handle, done: Callable[[], None]) -> None:
            def arrived(completion: rados.Completion, data: bytes | None) -> None:
                # What is read past the end has the length that was asked for, with anything in it: the number tells.
                count = completion.get_return_value()
                done()
                if count < 0 or data is None:
                    future.set_exception(store_error(-count, doing))
                elif count != length:
                    future.set_exception(_short(count, length, doing))
                else:
                    future.set_result(memoryview(data))

            handle.data.aio_read(name, length, offset, arrived)

        self._begin(submit, doing, future, early=early)
        return future

    def begin_write(self, id: str, number: int, data: bytes, doing: str) -> Future[None]:
        """A new data object: what is there already is somebody else's."""
        self._pool.count("put")
        future: Future[None] = Future()

        def submit(handle: Handle, done: Callable[[], None]) -> None:
            def written(completion: rados.Completion) -> None:
                code = completion.get_return_value()
                done()
                if code < 0:
                    future.set_exception(store_error(-code, doing))
                else:
                    future.set_result(None)

            with rados.WriteOpCtx() as op:
                op.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
                op.write_full(data)
                handle.data.operate_aio_write_op(op, stripe_name(id, number), oncomplete=written)

        self._begin(submit, doing, future)
        return future

    def remove(self, id: str, stripes: int) -> None:
        """All data objects of `id`. `stripes` is how many there may be; 0: nobody knows."""
        doing = f"removing the data objects of {id}"
        first, found = 0, True
        while first < stripes if stripes else found:
            last = min(first + REMOVED_AT_ONCE, stripes) if stripes else first + REMOVED_AT_ONCE
            were_there = [removed.result(self._pool.patience_s) for removed in self._removals(id, first, last, doing)]
            first, found = last, any(were_there)

    def _removals(self, id: str, first: int, last: int, doing: str) -> list[Future[bool]]:
        return [self._begin_remove(stripe_name(id, number), doing) for number in range(first, last)]

    def _begin_remove(self, name: str, doing: str) -> Future[bool]:
        """Whether it was there."""
        self._pool.count("delete")
        future: Future[bool] = Future()

        def submit(handle: Handle, done: Callable[[], None]) -> None:
            def removed(completion: rados.Completion) -> None:
                code = completion.get_return_value()
                done()
                if code in (0, -errno.ENOENT):
                    future.set_result(code == 0)
                else:
                    future.set_exception(store_error(-code, doing))

            handle.data.aio_remove(name, removed)

        self._begin(submit, doing, future)
        return future

    def _begin(
        self,
        submit: Callable[[Handle, Callable[[], None]], None],
        doing: str,
        future: Future[Any],
        *,
        early: bool = False,
    ) -> None:
        handle = self._pool.handle()
        if not handle.depth.acquire(blocking=not early, timeout=None if early else self._pool.patience_s):
            if early:
                raise RuntimeError("as many requests as may be are under way")
            raise StoreUnavailableError(f"{doing} takes too long: too many requests at once")
        future.set_running_or_notify_cancel()

        def done() -> None:
            handle.depth.release()
            handle.end()

        try:
            handle.begin()
        except BaseException:
            handle.depth.release()
            raise
        try:
            with translated(doing):
                submit(handle, done)
        except BaseException:
            done()
            raise


def cuts(stripe_bytes: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The range `start` to `stop` of an object, cut where its data objects end."""
    while start < stop:
        end = min(stop, (start // stripe_bytes + 1) * stripe_bytes)
        yield start, end
        start = end


def _whole(data: bytes, length: int, doing: str) -> memoryview:
    if len(data) != length:
        raise _short(len(data), length, doing)
    return memoryview(data)


def _short(count: int, length: int, doing: str) -> StoreError:
    return StoreUnavailableError(f"{doing} gave {count} bytes instead of {length}")
