"""The cache interface over a gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from objectcache.lazily import exports

if TYPE_CHECKING:
    from objectcache.client.cache import GatewayCache
    from objectcache.client.options import ClientOptions

__all__ = ["ClientOptions", "GatewayCache"]

# Receiving processes are in this package, and need neither.
__getattr__ = exports(
    "objectcache.client",
    {"GatewayCache": "objectcache.client.cache", "ClientOptions": "objectcache.client.options"},
)
