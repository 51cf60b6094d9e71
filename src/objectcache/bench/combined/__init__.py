"""`bench retrieve --store`: every store with every target, in one interleaved run."""

from objectcache.bench.combined.run import run_combined
from objectcache.bench.combined.settings import CombinedSettings, NamedStore

__all__ = ["CombinedSettings", "NamedStore", "run_combined"]
