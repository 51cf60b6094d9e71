"""Where buckets keep their objects: a directory each below `data`."""

from __future__ import annotations

import secrets
import shutil

from objectcache.cache.core import CacheCore
from objectcache.cache.directory import OBJECTS, open_directory
from objectcache.config import GatewayConfig, is_bucket
from objectcache.errors import StoreUnavailableError

_REMOVED = ".removed-"


class BucketStores:
    """Opens, finds and removes the stores of buckets. Calls block."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config

    def prepare(self) -> None:
        """Raises OSError."""
        self._config.data.mkdir(parents=True, exist_ok=True)
        for removed in self._config.data.glob(f"{_REMOVED}*"):
            shutil.rmtree(removed, ignore_errors=True)  # a removal that broke off

    def names(self) -> list[str]:
        """Those that are there, in order."""
        found = (path for path in self._config.data.iterdir() if is_bucket(path.name))
        return sorted(path.name for path in found if (path / OBJECTS).is_dir())

    def has(self, name: str) -> bool:
        return (self._config.data / name / OBJECTS).is_dir()

    def open(self, name: str) -> CacheCore:
        """Its core; the store is made when it is not there. Raises StoreError, CatalogError."""
        config = self._config
        return open_directory(config.data / name, limit_bytes=config.limit_bytes, lease_ttl_s=config.lease_ttl_s)

    def remove(self, name: str, core: CacheCore) -> None:
        """All of the bucket, which `core` is closed for. Raises StoreUnavailableError."""
        core.close()
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
