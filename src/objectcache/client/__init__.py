"""The cache interface over a gateway."""

from objectcache.client.cache import ClientOptions, GatewayCache

__all__ = ["ClientOptions", "GatewayCache"]
