"""`objectcache bench merge`: a conversation in as many segments as it had turns, and the same merged."""

from objectcache.bench.merge.rows import BARS
from objectcache.bench.merge.run import run_merge
from objectcache.bench.merge.settings import MergeSettings

__all__ = ["BARS", "MergeSettings", "run_merge"]
