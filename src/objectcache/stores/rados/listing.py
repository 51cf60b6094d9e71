"""The index in order: its shards side by side, each read page by page."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from concurrent.futures import Future

from objectcache.stores.base import MAX_NAME_BYTES
from objectcache.stores.rados.entry import BEFORE_NAMES
from objectcache.stores.rados.index import LAST_PAGE, PAGE, Index, Pairs

_NEVER = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HIGHEST = "\U0010ffff" * (MAX_NAME_BYTES // 4 + 1)
"""After the rest of any name."""


def list_keys(
    index: Index, below: str, prefix: str, start_after: str, patience_s: float
) -> Iterator[tuple[str, bytes]]:
    """Keys below `below` ("" or ends in "/") whose names begin with `prefix` and come after `start_after`, in order.

    `prefix` and `start_after` are any strings. Raises StoreError.
    """
    if _NEVER.search(prefix) or len(prefix.encode()) > MAX_NAME_BYTES:
        return
    after = below.encode() + start_after.encode("utf-8", "surrogatepass")
    found = _NEVER.search(start_after)
    begin = max(BEFORE_NAMES, below + (start_after[: found.start()] if found else start_after))
    shards = [_Shard(index, shard, below + prefix, begin, patience_s) for shard in index.shards]
    for key, value in heapq.merge(*map(_Shard.pairs, shards), key=lambda pair: pair[0].encode()):
        if key.encode() > after:
            yield key, value


def list_directories(index: Index, below: str, prefix: str, patience_s: float) -> Iterator[str]:
    """`below` + `prefix` + one component + "/", of what is there, in order. Raises StoreError."""
    if _NEVER.search(prefix) or len(prefix.encode()) > MAX_NAME_BYTES:
        return
    whole = below + prefix
    shards = [_Shard(index, shard, whole, BEFORE_NAMES, patience_s) for shard in index.shards]
    while True:
        heads = [key for shard in shards if (key := shard.head()) is not None]
        if not heads:
            return
        key = min(heads, key=str.encode)
        end = key.find("/", len(whole))
        if end < 0:
            passed = key
        else:
            yield key[: end + 1]
            passed = key[: end + 1] + _HIGHEST
        for shard in shards:
            shard.skip(passed)


class _Shard:
    """A shard's keys that begin with `prefix` and come after `after`. The first page is on its way at once."""

    def __init__(self, index: Index, shard: int, prefix: str, after: str, patience_s: float) -> None:
        self._index, self._shard, self._prefix = index, shard, prefix
        self._after, self._patience_s = after, patience_s
        # Who looks whether there is anything needs no more; whoever goes on gets larger ones.
        self._most = LAST_PAGE
        self._page: Pairs = []
        self._at = 0
        self._next: Future[Pairs] | None = self._begin()

    def pairs(self) -> Iterator[tuple[str, bytes]]:
        while self.head() is not None:
            self._at += 1
            yield self._page[self._at - 1]

    def head(self) -> str | None:
        """The next key; None: there are no more."""
        if self._at == len(self._page) and self._next is not None:
            self._page, self._at = self._next.result(self._patience_s), 0
            more = len(self._page) >= LAST_PAGE
            if more:
                self._after, self._most = self._page[-1][0], PAGE
            self._next = None
            self._more = more
        if self._at == len(self._page) and self._more:
            self._next = self._begin()
            return self.head()
        return self._page[self._at][0] if self._at < len(self._page) else None

    def skip(self, passed: str) -> None:
        """Past all keys up to `passed`."""
        encoded = passed.encode()
        while self._at < len(self._page) and self._page[self._at][0].encode() <= encoded:
            self._at += 1
        if self._at == len(self._page) and self._more:
            self._after = max(self._after, passed, key=str.encode)

    def _begin(self) -> Future[Pairs]:
        self._more = False
        return self._index.begin_page(self._shard, self._prefix, self._after, self._most)
