"""The workers' side, one for each rank: orders in, blocks filled and stored, reports out. Needs torch."""

from objectcache.connectors.vllm.worker.counters import LayerWaits, Outcome, WorkerStats
from objectcache.lazily import exports

__all__ = ["LayerWaits", "Outcome", "WorkerSide", "WorkerStats"]

__getattr__ = exports("objectcache.connectors.vllm.worker", {"WorkerSide": "objectcache.connectors.vllm.worker.side"})
