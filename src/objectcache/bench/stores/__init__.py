"""`bench stores`: retrieval from object stores, through a gateway and directly, against GETs of the best client."""

from objectcache.bench.stores.rows import BARS
from objectcache.bench.stores.run import run_stores
from objectcache.bench.stores.settings import BenchStore, StoresSettings

__all__ = ["BARS", "BenchStore", "StoresSettings", "run_stores"]
