"""A store as if it were far away, for tests."""

from objectcache.stores.latency import LIST_PAGE, PART_BYTES, LatencyStore

__all__ = ["LIST_PAGE", "PART_BYTES", "LatencyStore"]
