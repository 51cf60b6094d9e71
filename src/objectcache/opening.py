"""`objectcache.open`: a cache from a URL."""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from objectcache.cache.base import KVCache
from objectcache.cache.core import CacheCore
from objectcache.cache.directory import open_directory
from objectcache.cache.local import DEFAULT_BUFFER_BYTES, LocalCache
from objectcache.client import ClientOptions, GatewayCache
from objectcache.errors import ConfigError
from objectcache.stores import open_store

DEFAULT_PORT = 9000


def open_cache(url: str, *, options: ClientOptions | None = None, limit_bytes: int | None = None) -> KVCache:
    """A cache by URL: `http://gateway:9000/bucket`, `file:///data` (or a path), `memory://name`.

    `options` are for a gateway; `limit_bytes` is a local store's byte limit (default: 80 % of the free disk).
    Raises ConfigError for a URL that is none of these, CatalogError, StoreError.
    """
    parts = urlsplit(url)
    if parts.scheme == "http":
        bucket = parts.path.strip("/")
        if not parts.hostname or not bucket or "/" in bucket:
            raise ConfigError(f"a gateway's URL is http://host:port/bucket, got {url!r}")
        return GatewayCache(parts.hostname, parts.port or DEFAULT_PORT, bucket, options)
    buffer_bytes = options.buffer_bytes if options else DEFAULT_BUFFER_BYTES
    return LocalCache(open_core(url, limit_bytes=limit_bytes), buffer_bytes=buffer_bytes)


def open_core(url: str, *, limit_bytes: int | None = None) -> CacheCore:
    """The core over a local store, with a catalog of this process's own beside the objects."""
    if url.startswith("memory://"):
        # The catalog is a database on disk all the same; it goes with the cache.
        directory = tempfile.TemporaryDirectory(prefix="objectcache-")
        core = CacheCore.open(open_store(url, limit_bytes=limit_bytes), Path(directory.name) / "catalog")
        core.on_close.append(directory.cleanup)
        return core
    root = Path(urlsplit(url).path if url.startswith("file:") else url).expanduser().absolute()
    return open_directory(root, limit_bytes=limit_bytes)
