"""Where a cache's catalogs are: beside the objects in a directory, or in a local folder for a store elsewhere."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from objectcache.cache.core import CacheCore
from objectcache.cache.leases import DEFAULT_TTL_S
from objectcache.errors import CatalogError
from objectcache.stores import FileStore, Store

OBJECTS = "objects"
CATALOG = "catalog"
MAX_PROCESSES = 64


def open_directory(root: Path, *, limit_bytes: int | None = None, lease_ttl_s: float = DEFAULT_TTL_S) -> CacheCore:
    """`root/objects`, and a catalog in `root`; see `open_beside`. Raises CatalogError, StoreError."""
    return open_beside(FileStore(root / OBJECTS, limit_bytes=limit_bytes), root, lease_ttl_s=lease_ttl_s)


def open_beside(store: Store, folder: Path, *, lease_ttl_s: float = DEFAULT_TTL_S) -> CacheCore:
    """The first of `folder/catalog`, `folder/catalog-1`, … that no other process holds, over `store`; it follows the
    others. Raises CatalogError, StoreError; the store is then closed.
    """
    for slot in range(MAX_PROCESSES):
        path = folder / (f"{CATALOG}-{slot}" if slot else CATALOG)
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


def state_folder(url: str, state_dir: Path | None = None) -> Path:
    """Where the catalogs of the store at `url` are on this machine: a folder of its own, named by a digest, in
    `state_dir` (default: `$XDG_CACHE_HOME/objectcache`, or `~/.cache/objectcache`).
    """
    if state_dir is None:
        # An empty or relative value counts as none, as the XDG specification has it.
        configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
        base = configured if configured.is_absolute() else Path.home() / ".cache"
        state_dir = base / "objectcache"
    return state_dir / hashlib.sha256(url.encode()).hexdigest()[:16]
