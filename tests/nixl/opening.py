"""What tests with NIXL share: caches, and what is left of them."""

from __future__ import annotations

from typing import Any

from objectcache.cache import Match
from objectcache.client import GatewayCache
from objectcache.client.nixl_receivers import NixlReceivers
from objectcache.layout import KVLayout
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from objectcache.transports.nixl import Agent
from tests.gateway.process import GatewayProcess

LAYERS, CHUNKS, SLICE_BYTES = 24, 32, 128 << 10
LAYOUT = flat_layout(LAYERS, SLICE_BYTES)
PAYLOAD_BYTES = LAYERS * CHUNKS * SLICE_BYTES  # 96 MiB: a worker cannot have written it all before it is stopped


def open_cache(gateway: GatewayProcess, **options: Any) -> GatewayCache:
    """Its pool holds just one delivery of `LAYOUT`."""
    defaults = {"target": "nixl", "streams": 2, "buffer_bytes": PAYLOAD_BYTES, "fence_s": 0.3}
    opened = gateway.open(**{**defaults, **options})
    assert isinstance(opened, GatewayCache)
    return opened


def warm(cache: GatewayCache, layout: KVLayout = LAYOUT, chunks: int = CHUNKS) -> Match:
    """After a first delivery: the agents know each other."""
    namespace = new_namespace(layout)
    store_parts(cache, namespace, prompt(namespace, chunks))
    found = retrieve_and_check(cache, namespace, prompt(namespace, chunks))
    assert receivers_of(cache)
    return found


def receivers_of(cache: GatewayCache) -> NixlReceivers:
    """Of the session that is open."""
    assert cache._session is not None
    receivers = cache._session.receivers
    assert isinstance(receivers, NixlReceivers)
    return receivers


def agent_of(cache: GatewayCache) -> Agent:
    return receivers_of(cache)._agent


def is_free(cache: GatewayCache) -> bool:
    usage = cache.pool.usage()
    return not usage.in_use_bytes and not usage.quarantined_bytes
