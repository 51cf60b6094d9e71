"""The connector's counters in vLLM's log lines and at its /metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from objectcache.connectors.vllm.stats import COUNTERS, added, split_name, summary


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
    """`vllm:objectcache_…_total`, with the engine's labels and a reason or layer where there is one."""

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
                name=f"vllm:objectcache_{name}",
                documentation=text,
                labelnames=[*labelnames, label] if label else list(labelnames),
            )
            for name, (label, text) in COUNTERS.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        engine = self._labels[engine_idx]
        for name, value in transfer_stats_data.items():
            counter, label = split_name(name)
            labels = [*engine, label] if COUNTERS[counter][0] else engine
            self._counters[counter].labels(*labels).inc(value)
