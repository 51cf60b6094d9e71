"""Data workers: processes that move bytes, and what they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from objectcache.lazily import exports

if TYPE_CHECKING:
    from objectcache.workers.pool import WorkerPool

__all__ = ["WorkerPool"]

# The workers themselves are in this package, and need no event loop.
__getattr__ = exports("objectcache.workers", {"WorkerPool": "objectcache.workers.pool"})
