"""The connector's counters in vLLM's log lines and at its /metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Histogram
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from objectcache.connectors.vllm.stats import COUNTERS, LAYER_WAITS, added, split_name, summary

BUCKETS_S = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass
class ObjectCacheStats(KVConnectorStats):  # type: ignore[misc]
    """What one interval counted (`objectcache.connectors.vllm.stats`)."""

    def reset(self) -> None:
        self.data: dict[str, Any] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        return ObjectCacheStats(data=added(self.data, other.data))

    def reduce(self) -> dict[str, int | float]:
        return summary(self.data)

    def is_empty(self) -> bool:
        return not self.data


class ObjectCacheMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    """`vllm:objectcache_…`, with the engine's labels and a reason, which is empty where there is none."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Mapping[Any, Any],
        labelnames: Sequence[str],
        per_engine_labelvalues: Mapping[int, Sequence[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._labels = per_engine_labelvalues
        self._counters = {
            name: metric_types[Counter](
                name=f"vllm:objectcache_{name}", documentation=text, labelnames=[*labelnames, "reason"]
            )
            for name, text in COUNTERS.items()
        }
        self._waits = metric_types[Histogram](
            name="vllm:objectcache_layer_wait_seconds",
            documentation="How long a step stood at a layer for its KV",
            buckets=BUCKETS_S,
            labelnames=list(labelnames),
        )

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        labels = self._labels[engine_idx]
        for name, value in transfer_stats_data.items():
            if name == LAYER_WAITS:
                for wait_s in value:
                    self._waits.labels(*labels).observe(wait_s)
                continue
            counter, reason = split_name(name)
            if counter in self._counters and value > 0:
                self._counters[counter].labels(*labels, reason).inc(value)
