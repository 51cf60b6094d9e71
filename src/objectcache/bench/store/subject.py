"""Where the prefill is stored: straight in a file store, or through a gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.cache.base import KVCache
from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache
from objectcache.client import ClientOptions, GatewayCache
from objectcache.opening import open_core

Clear = Callable[[int], None]


@contextmanager
def subject(through: str, directory: Path) -> Iterator[tuple[KVCache, Clear]]:
    """The cache, and what deletes so many bytes of stored slices again, behind its back or not."""
    with ExitStack() as stack:
        if through == "direct":
            core = open_core(str(directory / "kv"))
            cache: KVCache = stack.enter_context(LocalCache(core))
        else:
            gateway = stack.enter_context(BenchGateway(directory / "gateway"))
            options = ClientOptions(
                access_key=gateway.credentials.access_key, secret_key=gateway.credentials.secret_key
            )
            cache = stack.enter_context(GatewayCache(gateway.host, gateway.port, BUCKET, options))
            core = open_core(str(directory / "gateway" / BUCKET))  # as another process beside it
            stack.callback(core.close)
        yield cache, lambda size_bytes: _clear(core, size_bytes)


def _clear(core: CacheCore, size_bytes: int) -> None:
    core.follow()
    if size_bytes:
        core.evict(size_bytes)
