"""`bench retrieve`: layerwise retrieval through a gateway, against the fastest loop that this machine can run."""

from objectcache.bench.retrieve.rows import BARS
from objectcache.bench.retrieve.run import run_retrieve
from objectcache.bench.retrieve.settings import LLAMA_31_8B, ModelShape, RetrieveSettings

__all__ = ["BARS", "LLAMA_31_8B", "ModelShape", "RetrieveSettings", "run_retrieve"]
