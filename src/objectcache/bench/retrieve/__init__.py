"""`bench retrieve`: layerwise retrieval through a gateway, against the fastest loop that this machine can run."""

from objectcache.bench.retrieve.rows import BARS
from objectcache.bench.retrieve.run import run_retrieve
from objectcache.bench.retrieve.settings import RetrieveSettings

__all__ = ["BARS", "RetrieveSettings", "run_retrieve"]
