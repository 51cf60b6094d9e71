"""A store in front of another: what is read of immutable objects stays on a local disk, in extents."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from objectcache.errors import ConfigError
from objectcache.names import SEGMENT_PREFIX
from objectcache.stores.base import ObjectInfo, ObjectReader, ObjectUpload, Store, StoreUsage, check_name
from objectcache.stores.read_cache_extents import Extents
from objectcache.stores.read_cache_fetches import Fetches
from objectcache.stores.read_cache_reader import CachedReader, ExtentsOf, ReadCacheCounters, Tally
from objectcache.stores.read_cache_upload import FillingUpload

EXTENT_BYTES = 4 << 20
"""Large enough for a request to be worth its round trip, small enough that a layer does not bring in many others."""
_SCHEME = "cache://"
_MAX_ROOT_BYTES = 512


class ReadCache(Store):
    """`store`, with extents of the objects whose names begin with `prefix` kept below `root` (made when missing).

    Those objects must be immutable: extents are never compared with the object again. An object that is deleted or
    written through this store loses its extents; one that somebody else has deleted stays readable here, extent by
    extent, until they are evicted. Everything else passes through, and so do uploads; with `fill_on_write` they leave
    extents behind, since what was just stored is likely to be read.

    Any number of processes of one host may use `root`, which must be on a disk of its own host. They share
    `limit_bytes`, by default 80 % of what is free there; past it, the extents that were used least recently go. Where
    there is no room, or the disk fails, objects are read as if there were no cache. `close` closes `store` too.
    """

    far = True

    def __init__(
        self,
        store: Store,
        root: str | os.PathLike[str],
        *,
        limit_bytes: int | None = None,
        extent_bytes: int = EXTENT_BYTES,
        fill_on_write: bool = False,
        prefix: str = SEGMENT_PREFIX,
    ) -> None:
        """Raises ConfigError for a root or sizes that cannot be."""
        path = os.path.abspath(root)
        if len(os.fsencode(path)) > _MAX_ROOT_BYTES or "\0" in path:
            raise ConfigError(
                f"{path!r} cannot be a read cache's path: at most {_MAX_ROOT_BYTES} bytes, none of them 0"
            )
        if extent_bytes < 1:
            raise ConfigError(f"extent_bytes must be positive, got {extent_bytes}")
        self._store = store
        self._extent_bytes = extent_bytes
        self._fill_on_write = fill_on_write
        self._prefix = prefix
        self._extents = Extents(path, limit_bytes)
        self._fetches = Fetches()
        self._tally = Tally()
        self.url = (
            f"{_SCHEME}{quote(path)}?limit_bytes={self._extents.limit_bytes}&extent_bytes={extent_bytes}"
            f"&fill_on_write={int(fill_on_write)}&prefix={quote(prefix, safe='')}&store={quote(store.url, safe='')}"
        )

    def upload(
        self,
        name: str,
        *,
        size_bytes: int | None = None,
        if_absent: bool = False,
        if_match: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectUpload:
        upload = self._store.upload(
            name, size_bytes=size_bytes, if_absent=if_absent, if_match=if_match, metadata=metadata
        )
        if not self._keeps(name):
            return upload
        return FillingUpload(
            upload,
            self._extents,
            partial(self._layout, name),
            partial(self.discard, name),
            self._extent_bytes if self._fill_on_write else 0,
        )

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        if not self._keeps(name):
            return self._store.open(name, size_bytes=size_bytes)
        source: ObjectReader | None = None
        if size_bytes is None:
            source = self._store.open(name)
            info = source.info
        else:
            info = ObjectInfo(check_name(name), size_bytes, 0.0, "")
        return CachedReader(
            info,
            partial(self._store.open, name, size_bytes=info.size_bytes),
            source,
            self._layout(name, info.size_bytes),
            self._extents,
            self._fetches,
            self._tally,
        )

    def head(self, name: str) -> ObjectInfo:
        return self._store.head(name)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self._store.list(prefix, start_after=start_after)

    def list_prefixes(self, prefix: str = "") -> Iterator[str]:
        return self._store.list_prefixes(prefix)

    def delete(self, name: str) -> None:
        self._store.delete(name)
        self.discard(name)

    def discard(self, name: str) -> None:
        if self._keeps(name):
            self._extents.discard(self._extents.directory(self._store.url, name))
        self._store.discard(name)

    def usage(self) -> StoreUsage:
        return self._store.usage()

    def request_counts(self) -> Mapping[str, int]:
        return self._store.request_counts()

    def account(self, delta_bytes: int) -> None:
        self._store.account(delta_bytes)

    def cache_usage(self) -> StoreUsage:
        """Of the extents of all processes."""
        return self._extents.usage()

    def counters(self) -> ReadCacheCounters:
        return self._tally.counters(self._extents.evicted)

    def close(self) -> None:
        self._fetches.close()
        self._extents.close()
        self._store.close()

    def _keeps(self, name: str) -> bool:
        return name.startswith(self._prefix)

    def _layout(self, name: str, size_bytes: int) -> ExtentsOf:
        return ExtentsOf(self._extents.directory(self._store.url, name), size_bytes, self._extent_bytes)


def parse_read_cache_url(rest: str) -> tuple[str, dict[str, str]]:
    """Path and parameters of what follows `cache://` in a URL. Raises ConfigError."""
    path, _, query = rest.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    unknown = parameters.keys() - {"limit_bytes", "extent_bytes", "fill_on_write", "prefix", "store"}
    if not path.startswith("/") or "#" in rest or unknown or not parameters.get("store"):
        raise ConfigError(
            f"'{_SCHEME}{rest}' should be {_SCHEME}/absolute/path?store=URL, with &limit_bytes=… and others as needed, "
            "all of them percent-encoded"
        )
    return os.fsdecode(unquote_to_bytes(path)), parameters


def wrapped(store: Store, path: str, parameters: Mapping[str, str]) -> ReadCache:
    """The read cache that a URL describes, in front of `store`. Raises ConfigError."""
    try:
        limit_bytes = int(parameters["limit_bytes"]) if "limit_bytes" in parameters else None
        extent_bytes = int(parameters.get("extent_bytes", EXTENT_BYTES))
        fill_on_write = bool(int(parameters.get("fill_on_write", 0)))
    except ValueError as error:
        raise ConfigError(f"a read cache's limit_bytes, extent_bytes and fill_on_write are numbers: {error}") from error
    return ReadCache(
        store,
        Path(path),
        limit_bytes=limit_bytes,
        extent_bytes=extent_bytes,
        fill_on_write=fill_on_write,
        prefix=parameters.get("prefix", SEGMENT_PREFIX),
    )
