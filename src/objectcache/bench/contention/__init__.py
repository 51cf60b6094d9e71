"""`objectcache bench contention`: requests that share a cap, under each policy."""

from objectcache.bench.contention.rows import BARS
from objectcache.bench.contention.run import run_contention
from objectcache.bench.contention.settings import ContentionSettings

__all__ = ["BARS", "ContentionSettings", "run_contention"]
