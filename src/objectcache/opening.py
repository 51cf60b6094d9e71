"""`objectcache.open`: a cache from a URL."""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from objectcache.cache.base import KVCache
from objectcache.cache.core import CacheCore
from objectcache.cache.directory import open_beside, open_directory, state_folder
from objectcache.cache.local import DEFAULT_BUFFER_BYTES, LocalCache
from objectcache.client import ClientOptions, GatewayCache
from objectcache.errors import ConfigError
from objectcache.stores import open_store

DEFAULT_PORT = 9000


def open_cache(
    url: str,
    *,
    options: ClientOptions | None = None,
    limit_bytes: int | None = None,
    state_dir: str | Path | None = None,
    merge_bytes_s: float = 0.0,
) -> KVCache:
    """A cache by URL: `http://gateway:9000/bucket` (or https), `s3://bucket/prefix`,
    `rados://pool/prefix`, `file:///data` (or a path), `memory://name`.

    `options` are for a gateway; `buffer_bytes` of them for all, and `tier` also for what is far. `limit_bytes` is a
    store's byte limit (of a local one by default 80 % of the free disk). `state_dir` is where catalogs of buckets are
    kept on this machine, a few hundred bytes a chunk (default: `$XDG_CACHE_HOME/objectcache`, or
    `~/.cache/objectcache`); whoever has none begins with reading the bucket's logs.
    `merge_bytes_s` above 0 has a thread of this process merge small segments, at that rate; gateways do so by default.
    Raises ConfigError for a URL that is none of these, CatalogError, StoreError.
    """
    if url.lower().startswith(("http:", "https:")):
        host, port, bucket = _gateway(url)
        return GatewayCache(host, port, bucket, options, tls=url.lower().startswith("https:"))
    buffer_bytes = options.buffer_bytes if options else DEFAULT_BUFFER_BYTES
    core = open_core(url, limit_bytes=limit_bytes, state_dir=state_dir)
    # What is near is in memory anyway: the system caches files.
    tiering = options.tier.open() if options and core.store.far else None
    return LocalCache(core, buffer_bytes=buffer_bytes, tiering=tiering, merge_bytes_s=merge_bytes_s)


def _gateway(url: str) -> tuple[str, int, str]:
    """Host, port and bucket. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL: {error}") from error
    bucket = parts.path.strip("/")
    if not host or not bucket or "/" in bucket:
        raise ConfigError(f"a gateway's URL is http://host:port/bucket, got {url!r}")
    return host, port, bucket


def open_core(url: str, *, limit_bytes: int | None = None, state_dir: str | Path | None = None) -> CacheCore:
    """The core over a store, with a catalog of this process's own: beside the objects; in `state_dir` for what is far,
    and for a mount that lacks something, where a database may not work.
    """
    if url.lower().startswith(("s3:", "rados:")) or (url.startswith("file:") and "?" in url):
        store = open_store(url, limit_bytes=limit_bytes)
        return open_beside(store, state_folder(store.url, Path(state_dir) if state_dir else None))
    if url.startswith("memory://"):
        # The catalog is a database on disk all the same; it goes with the cache.
        directory = tempfile.TemporaryDirectory(prefix="objectcache-")
        core = CacheCore.open(open_store(url, limit_bytes=limit_bytes), Path(directory.name) / "catalog")
        core.on_close.append(directory.cleanup)
        return core
    root = Path(_local_path(url)).expanduser().absolute()
    return open_directory(root, limit_bytes=limit_bytes)


def _local_path(url: str) -> str:
    """Of a file URL, or a path as it is. Raises ConfigError for other URLs, which would make odd directories."""
    if url.startswith("file:"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(f"a file URL has three slashes, as in file:///data; got {url!r}")
        return unquote(parts.path)
    if "://" in url:
        raise ConfigError(f"{url!r} cannot be opened: http://, https://, s3://, rados://, file:// and memory:// can")
    return url
