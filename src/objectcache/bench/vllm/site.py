"""What engines load from: one SeaweedFS for all, gateways before it, LMCache's server before it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.stores.delaying import DelayingProxy
from objectcache.bench.stores.services import started
from objectcache.bench.stores.settings import BenchStore
from objectcache.bench.vllm.lmcache_server import LMCacheServer
from objectcache.stores import ReadCache, child_url, open_store

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_MIB = 1 << 20
_STAGING_BYTES = 512 * _MIB
_DEADLINE_S = 60.0
"""A benchmark had rather wait than have its engines compute."""
_SETTLE_TIMEOUT_S = 60.0
_STABLE_S = 0.5

# LMCache has buckets in host names only. This one is an address, too: of loopback, as every resolver reads numbers.
_DOMAIN, _LMCACHE_BUCKET = "0x1", "127"
_LMCACHE_MEMORY_GIB = 1


@contextmanager
def started_store() -> Iterator[BenchStore]:
    """SeaweedFS, with credentials in this process's environment meanwhile. Raises ConfigError, BenchmarkError."""
    with started("seaweedfs", {"SEAWEEDFS_DOMAIN": _DOMAIN}) as store:
        yield store


def open_lmcache(store: BenchStore, python: Path, directory: Path) -> LMCacheServer:
    """Over a bucket of the same store."""
    port = store.options.endpoint.rpartition(":")[2]
    return LMCacheServer(
        python,
        f"{_LMCACHE_BUCKET}.{_DOMAIN}:{port}",
        *(os.environ[name] for name in _KEYS),
        memory_gib=_LMCACHE_MEMORY_GIB,
        directory=directory,
    )


def transfer_of(url: str, admission: str) -> dict[str, Any]:
    """vLLM's `kv_transfer_config` for our connector."""
    return {
        "kv_connector": "ObjectCacheConnector",
        "kv_connector_module_path": "objectcache.connectors.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "url": url,
            "admission": admission,
            "deadline_s": _DEADLINE_S,
            "store_min_tokens": 0,
            "advise": False,  # it is measured what loading takes, also where computing would be faster
            "staging_bytes": _STAGING_BYTES,
            "saving_bytes": _STAGING_BYTES,
        },
    }


def wait_until_stored(store: BenchStore, expected_bytes: int) -> None:
    """Until the objects of `store` have that many bytes, and no more come. Raises BenchmarkError."""
    opened = open_store(store.options.url)
    try:
        end_s, seen, since_s = time.monotonic() + _SETTLE_TIMEOUT_S, -1, 0.0
        while time.monotonic() < end_s:
            now = sum(info.size_bytes for info in opened.list())
            if now != seen:
                seen, since_s = now, time.monotonic()
            elif seen >= expected_bytes and time.monotonic() - since_s > _STABLE_S:
                return
            time.sleep(_STABLE_S / 5)
    finally:
        opened.close()
    raise BenchmarkError(f"{expected_bytes} bytes of KV should be stored, {seen} are")


class GatewayOverStore(AbstractContextManager["GatewayOverStore"]):
    """A gateway whose store is a bucket, and a read cache that can be emptied. With `stallable`, a proxy between the
    two can be told not to answer any more. Raises ObjectCacheError."""

    def __init__(self, store: BenchStore, directory: Path, *, stallable: bool = False) -> None:
        self._stack = ExitStack()
        try:
            self._open(store, directory, stallable)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, store: BenchStore, directory: Path, stallable: bool) -> None:
        options = store.options
        if stallable:
            host, _, port = options.endpoint.rpartition("/")[2].partition(":")
            self._proxy = self._stack.enter_context(DelayingProxy(host, int(port), 0.0))
            options = options.at(f"http://127.0.0.1:{self._proxy.port}")
        read_cache = directory / "read-cache"
        self._gateway = self._stack.enter_context(
            BenchGateway(directory / "gateway", {"store": options.url, "cache_dir": str(read_cache)})
        )
        # The directory is shared with the gateway's processes: what is discarded here is gone for them.
        self._read_cache = ReadCache(open_store(child_url(options.url, BUCKET)), read_cache)
        self._stack.callback(self._read_cache.close)

    @property
    def url(self) -> str:
        return f"http://{self._gateway.host}:{self._gateway.port}/{BUCKET}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What its clients need in theirs."""
        keys = self._gateway.credentials
        return dict(zip(_KEYS, (keys.access_key, keys.secret_key), strict=True))

    def forget(self) -> None:
        """Empty its read cache: what it delivers next is the store's. Raises BenchmarkError."""
        for info in list(self._read_cache.list()):
            self._read_cache.discard(info.name)
        if self._read_cache.cache_usage().used_bytes:
            raise BenchmarkError("the gateway's read cache could not be emptied")

    def stall(self, stalled: bool) -> None:
        """Of one that is stallable: its store does not answer requests any more, or does again."""
        self._proxy.stall(stalled)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
