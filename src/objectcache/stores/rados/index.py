"""The index of a pool: which objects are there, in a few RADOS objects whose keys are in order.

RADOS lists a pool's objects in no order. Keys of one object (its omap) it keeps sorted, and changes several of them at
once, under conditions, whole or not at all: so an object is there when the index has an entry for it, and what else
must change with that changes in the same request. Names are spread over `SHARDS` such objects by a hash, since Ceph
warns of objects with more than 200,000 keys, and since each is written in one place.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from hashlib import blake2b
from typing import Any, TypeAlias

import rados

from objectcache.errors import ConfigError, StoreError
from objectcache.stores.rados.connection import Pool
from objectcache.stores.rados.entry import INLINE, Entry
from objectcache.stores.rados.errors import CONFLICT, store_error, translated

SHARDS = 16
PAGE = 1000
"""Keys in one answer; OSDs give 1,024 at most."""
LAST_PAGE = 64
"""An answer with fewer keys is the last: OSDs may be told to give fewer than they are asked for, but not so few."""
_HEADER = "objectcache"
_FORMAT = 1

Pairs: TypeAlias = list[tuple[str, bytes]]


class Index:
    """Reads and changes of the index that `pool` has. Thread-safe. Raises StoreError."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._shards = 0

    @property
    def shards(self) -> range:
        """Their numbers. The first who writes to a pool says how many there are."""
        return range(self._shards or self._read_header())

    def shard_of(self, key: str) -> int:
        return int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") % len(self.shards)

    def lookup(self, key: str) -> tuple[Entry, bytes] | None:
        """What the index has of `key`, and its bytes where they are there too; None: nothing."""
        return self.begin_lookup(key).result(self._pool.patience_s)

    def begin_lookup(self, key: str) -> Future[tuple[Entry, bytes] | None]:
        self._pool.count("head")
        found: Future[tuple[Entry, bytes] | None] = Future()

        def told(pairs: Pairs | None, error: StoreError | None) -> None:
            try:
                values = dict(pairs or ())
                if error is not None:
                    raise error
                text = values.get(key)
                found.set_result((Entry.decode(key, text), values.get(INLINE + key, b"")) if text else None)
            except StoreError as failed:
                found.set_exception(failed)

        self._begin_read(self.shard_of(key), f"looking up {key!r}", (key, INLINE + key), told)
        return found

    def text_of(self, shard: int, key: str) -> str:
        """A key's value as it is; "" where there is none."""
        self._pool.count("head")
        handle = self._pool.handle()
        with handle.using(), translated(f"looking up {key!r}"), rados.ReadOpCtx() as op:
            pairs, _ = handle.index.get_omap_vals_by_keys(op, (key,))
            try:
                handle.index.operate_read_op(op, _shard_name(shard))
            except rados.ObjectNotFound:
                return ""
            return str(dict(pairs).get(key, b"").decode("ascii"))

    def begin_page(self, shard: int, prefix: str, after: str, most: int) -> Future[Pairs]:
        """Up to `most` keys that begin with `prefix` and come after `after`, in order, with their values."""
        self._pool.count("list")
        page: Future[Pairs] = Future()

        def told(pairs: Pairs | None, error: StoreError | None) -> None:
            if error is not None:
                page.set_exception(error)
            else:
                page.set_result(pairs or [])

        self._begin_read(shard, f"listing {prefix!r}", (after, prefix, most), told)
        return page

    def page(self, shard: int, prefix: str, after: str, most: int = PAGE) -> Pairs:
        return self.begin_page(shard, prefix, after, most).result(self._pool.patience_s)

    def commit(
        self, shard: int, where: Mapping[str, str], keys: Mapping[str, bytes], gone: Sequence[str] = (), *, doing: str
    ) -> bool:
        """Set `keys` and remove `gone`, if the values of all keys in `where` are those ("": not there): at once.

        False when they are not, and nothing was done.
        """
        self._pool.count("put")
        handle = self._pool.handle()
        with handle.using(), rados.WriteOpCtx() as op:
            op.new(rados.LIBRADOS_CREATE_IDEMPOTENT)
            for key, value in where.items():
                op.omap_cmp(key, value, rados.LIBRADOS_CMPXATTR_OP_EQ)
            if keys:
                handle.index.set_omap(op, tuple(keys), tuple(keys.values()))
            if gone:
                handle.index.remove_omap_keys(op, tuple(gone))
            try:
                handle.index.operate_write_op(op, _shard_name(shard))
            except rados.Error as error:
                if error.errno == CONFLICT:
                    return False
                raise store_error(error.errno, doing) from error
        return True

    def _begin_read(self, shard: int, doing: str, what: tuple[Any, ...], told: Any) -> None:
        """`told(pairs, error)` is called once, from a thread of librados or this one. `what`: keys, or a page."""
        handle = self._pool.handle()
        handle.begin()
        op = rados.ReadOp().create()
        try:
            if len(what) == 2:
                pairs, _ = handle.index.get_omap_vals_by_keys(op, what)
            else:
                after, prefix, most = what
                pairs, _ = handle.index.get_omap_vals(op, after, prefix, most)

            def done(completion: rados.Completion) -> None:
                try:
                    number = -completion.get_return_value()
                    # A shard that nobody has written to has no keys.
                    missing = number == errno.ENOENT
                    found = [] if missing or number > 0 else [(key, value or b"") for key, value in pairs]
                    told(found, store_error(number, doing) if number > 0 and not missing else None)
                except rados.Error as error:
                    told(None, store_error(error.errno, doing))
                except UnicodeDecodeError:
                    told(None, store_error(errno.EIO, doing))
                finally:
                    op.release()
                    handle.end()

            with translated(doing):
                handle.index.operate_aio_read_op(op, _shard_name(shard), oncomplete=done)
        except BaseException:
            op.release()
            handle.end()
            raise

    def _read_header(self) -> int:
        handle = self._pool.handle()
        with handle.using(), translated("reading the index's header"):
            for _ in range(2):
                try:
                    header = json.loads(handle.index.read(_HEADER))
                    break
                except rados.ObjectNotFound:
                    header = {}
                    self._write_header(handle.index)
        if header.get("format") != _FORMAT:
            raise ConfigError(f"the pool's index has format {header.get('format')}, and this version reads {_FORMAT}")
        self._shards = int(header["shards"])
        return self._shards

    def _write_header(self, ioctx: rados.Ioctx) -> None:
        header = json.dumps({"format": _FORMAT, "shards": SHARDS}).encode()
        with rados.WriteOpCtx() as op:
            op.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
            op.write_full(header)
            with suppress(rados.ObjectExists):  # somebody else was first
                ioctx.operate_write_op(op, _HEADER)


def _shard_name(shard: int) -> str:
    return f"index.{shard}"
