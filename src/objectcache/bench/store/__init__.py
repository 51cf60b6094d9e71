"""`bench store`: what storing costs a prefill that keeps a core busy, and how much of it gets stored."""

from objectcache.bench.store.rows import BARS
from objectcache.bench.store.run import run_store
from objectcache.bench.store.settings import StoreSettings

__all__ = ["BARS", "StoreSettings", "run_store"]
