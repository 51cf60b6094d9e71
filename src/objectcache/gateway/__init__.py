"""The gateway: S3-style HTTP for control, data workers for the bytes."""

from objectcache.gateway.app import Gateway
from objectcache.gateway.server import serve

__all__ = ["Gateway", "serve"]
