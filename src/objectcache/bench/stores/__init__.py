"""`bench stores`: retrieval from object stores, through a gateway and directly, against GETs of the best client."""

from objectcache.bench.stores.rows import BARS, RADOS_BARS, bars_of
from objectcache.bench.stores.run import run_stores
from objectcache.bench.stores.settings import BenchStore, StoresSettings

__all__ = ["BARS", "RADOS_BARS", "BenchStore", "StoresSettings", "bars_of", "run_stores"]
