"""The cache interface over a gateway."""

from objectcache.client.cache import GatewayCache
from objectcache.client.options import ClientOptions

__all__ = ["ClientOptions", "GatewayCache"]
