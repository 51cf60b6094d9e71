"""Data workers: processes that move bytes, and what they are told."""

from objectcache.workers.pool import WorkerPool

__all__ = ["WorkerPool"]
