"""`bench retrieve`: layerwise retrieval through a gateway, against the fastest loop that this machine can run."""

from objectcache.bench.retrieve.rows import BARS, NIXL_BARS, bars_of
from objectcache.bench.retrieve.run import run_retrieve
from objectcache.bench.retrieve.settings import RetrieveSettings

__all__ = ["BARS", "NIXL_BARS", "RetrieveSettings", "bars_of", "run_retrieve"]
