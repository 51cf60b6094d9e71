"""Where buckets keep their objects: a directory each below `data`, or a prefix each of another store.

Over another store, `data` holds each bucket's catalog, and a read cache that all buckets share.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from objectcache.cache.core import CacheCore
from objectcache.cache.directory import OBJECTS, open_beside, open_directory
from objectcache.config import GatewayConfig, is_bucket
from objectcache.errors import StoreUnavailableError
from objectcache.stores import ReadCache, Store, child_url, delete_all, open_store

READ_CACHE = "read-cache"
_REMOVED = ".removed-"


class BucketStores:
    """Opens, finds and removes the stores of buckets. Calls block, and raise ConfigError, StoreError, CatalogError."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._root: Store | None = None

    def prepare(self) -> None:
        """Raises OSError."""
        self._config.data.mkdir(parents=True, exist_ok=True)
        for removed in self._config.data.glob(f"{_REMOVED}*"):
            shutil.rmtree(removed, ignore_errors=True)  # a removal that broke off
        if self._config.store:
            self._root = open_store(self._config.store)

    def names(self) -> list[str]:
        """Those that are there, in order."""
        if self._root is not None:
            # Some services show directories for a while that have become empty.
            found = [name for prefix in self._root.list_prefixes() if self.has(name := prefix.removesuffix("/"))]
        else:
            found = [path.name for path in self._config.data.iterdir() if (path / OBJECTS).is_dir()]
        return sorted(filter(is_bucket, found))

    def has(self, name: str) -> bool:
        if self._root is not None:
            return is_bucket(name) and next(iter(self._root.list(f"{name}/")), None) is not None
        return is_bucket(name) and (self._config.data / name / OBJECTS).is_dir()

    def open(self, name: str) -> CacheCore:
        """Its core; the store is made when it is not there."""
        config = self._config
        if self._root is None:
            return open_directory(config.data / name, limit_bytes=config.limit_bytes, lease_ttl_s=config.lease_ttl_s)
        store: Store = open_store(child_url(self._root.url, name), limit_bytes=config.limit_bytes)
        if store.far and config.cache_bytes != 0:
            cache_dir = config.cache_dir or config.data / READ_CACHE
            store = ReadCache(store, cache_dir, limit_bytes=config.cache_bytes, fill_on_write=True)
        core = open_beside(store, self._catalogs(name), lease_ttl_s=config.lease_ttl_s)
        core.reads.measured = isinstance(store, ReadCache)  # by the workers, which fill it
        return core

    def _catalogs(self, name: str) -> Path:
        return self._config.data / "catalogs" / name

    def remove(self, name: str, core: CacheCore) -> None:
        """All of the bucket, which `core` is of and is closed."""
        core.close()
        if self._root is None:
            self._remove_directory(name)
            return
        failed = delete_all(self._root, [info.name for info in self._root.list(f"{name}/")])
        shutil.rmtree(self._catalogs(name), ignore_errors=True)
        if failed:
            raise next(iter(failed.values()))

    def _remove_directory(self, name: str) -> None:
        removed = self._config.data / f"{_REMOVED}{secrets.token_hex(8)}"
        try:
            # At once and whole: whoever is writing into it has nothing left to write to.
            (self._config.data / name).rename(removed)
        except FileNotFoundError:
            return  # another gateway was faster
        except OSError as error:
            raise StoreUnavailableError(f"bucket {name!r} cannot be removed: {error.strerror}") from error
        shutil.rmtree(removed, ignore_errors=True)

    def close(self) -> None:
        """Let go of what is shared by the buckets."""
        if self._root is not None:
            self._root.close()
