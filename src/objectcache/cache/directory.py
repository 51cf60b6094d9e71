"""A directory that holds a cache: its objects, and a catalog for each process that has it open."""

from __future__ import annotations

from pathlib import Path

from objectcache.cache.core import CacheCore
from objectcache.cache.leases import DEFAULT_TTL_S
from objectcache.errors import CatalogError
from objectcache.stores import FileStore

OBJECTS = "objects"
CATALOG = "catalog"
MAX_PROCESSES = 64


def open_directory(root: Path, *, limit_bytes: int | None = None, lease_ttl_s: float = DEFAULT_TTL_S) -> CacheCore:
    """`root/objects`, and the first of `root/catalog`, `root/catalog-1`, … that no other process holds; it follows the
    others. Raises CatalogError, StoreError.
    """
    store = FileStore(root / OBJECTS, limit_bytes=limit_bytes)
    for slot in range(MAX_PROCESSES):
        path = root / (f"{CATALOG}-{slot}" if slot else CATALOG)
        try:
            core = CacheCore.open(store, path, lease_ttl_s=lease_ttl_s)
        except CatalogError:
            if slot == MAX_PROCESSES - 1:
                store.close()
                raise
            continue
        except BaseException:
            store.close()
            raise
        core.start_following()
        return core
    raise AssertionError("the last slot returns or raises")
