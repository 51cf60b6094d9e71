"""From a URL to a store."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace

from objectcache.errors import ConfigError
from objectcache.stores.base import Store
from objectcache.stores.file import FileStore
from objectcache.stores.file_mount import Mount
from objectcache.stores.file_options import parse_file_url
from objectcache.stores.memory import named_memory_store
from objectcache.stores.read_cache import parse_read_cache_url, wrapped

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def open_store(url: str, *, limit_bytes: int | None = None) -> Store:
    """The store at `url`: file:///abs/path, a bare path (`~` is the home directory), s3://bucket/prefix,
    rados://pool/prefix, memory://name.

    cache:///abs/path?store=URL is a read cache in front of another store. `limit_bytes` replaces the store's default
    limit (of the other store, for a read cache, whose own is in its URL). Raises ConfigError for anything else, and for
    a limit that contradicts the one an open memory store has.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        if not url:
            raise ConfigError("the store's URL is empty")
        return FileStore(os.path.expanduser(url), limit_bytes=limit_bytes)
    opener = _OPENERS.get(scheme[1].lower())
    rest = url[scheme.end() :]
    if opener is None or not rest.startswith("//"):
        known = ", ".join(f"{name}://" for name in _OPENERS)
        raise ConfigError(f"{url!r} is not a store: known are {known} and paths (written ./{url}, if it is one)")
    return opener(rest[2:], limit_bytes)


def child_url(url: str, name: str) -> str:
    """Of the store that has its objects below `name`/ in the store at `url` (file, s3, rados). Raises ConfigError."""
    scheme = url.partition("://")[0]
    if scheme == "s3":
        from objectcache.stores.s3.options import parse_s3_url

        bucket = parse_s3_url(url, os.environ)
        return replace(bucket, prefix="/".join(filter(None, (bucket.prefix, name)))).url
    if scheme == "rados":
        from objectcache.stores.rados.options import parse_rados_url

        pool = parse_rados_url(url, os.environ)
        return replace(pool, prefix="/".join(filter(None, (pool.prefix, name)))).url
    if scheme == "file":
        return parse_file_url(url.partition("://")[2]).below(name).url
    raise ConfigError(f"{scheme}:// stores have no parts that are stores")


def _open_file(rest: str, limit_bytes: int | None) -> Store:
    options = parse_file_url(rest)
    mount = Mount.without(options.lacks)
    return FileStore(options.path, limit_bytes=limit_bytes, mount=mount, prefix=options.prefix)


def _open_s3(rest: str, limit_bytes: int | None) -> Store:
    try:
        from objectcache.stores.s3 import open_s3_store
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise ConfigError("s3:// needs a package more: pip install 'objectcache[s3]'") from error
    return open_s3_store(f"s3://{rest}", limit_bytes)


def _open_rados(rest: str, limit_bytes: int | None) -> Store:
    try:
        from objectcache.stores.rados import open_rados_store
    except ModuleNotFoundError as error:
        if error.name != "rados":
            raise
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ConfigError(
            "rados:// needs Ceph's own binding, which is not on PyPI: apt-get install python3-rados (made for Python "
            f"{version}), and link it into a virtual environment: ln -s "
            f"/usr/lib/python3/dist-packages/rados.cpython-*.so {sysconfig.get_path('platlib')}/ (docs/stores.md)"
        ) from error
    return open_rados_store(f"rados://{rest}", limit_bytes)


def _open_read_cache(rest: str, limit_bytes: int | None) -> Store:
    path, parameters = parse_read_cache_url(rest)
    store = open_store(parameters["store"], limit_bytes=limit_bytes)
    try:
        return wrapped(store, path, parameters)
    except BaseException:
        store.close()
        raise


_OPENERS: dict[str, Callable[[str, int | None], Store]] = {
    "file": _open_file,
    "memory": named_memory_store,
    "s3": _open_s3,
    "rados": _open_rados,
    "cache": _open_read_cache,
}
