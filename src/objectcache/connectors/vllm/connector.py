"""The class that vLLM loads: its hooks, handed on to the side of the connector that lives in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)

from objectcache.connectors.vllm.facts import Facts
from objectcache.connectors.vllm.messages import Orders, Report
from objectcache.connectors.vllm.metrics import ObjectCacheMetrics, ObjectCacheStats
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.scheduler_side import SchedulerSide
from objectcache.connectors.vllm.worker_side import WorkerSide

try:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
except ImportError:  # before 0.29
    KVConnectorTransferResults = None

log = logging.getLogger(__name__)


@dataclass
class OrdersMetadata(KVConnectorMetadata):  # type: ignore[misc]
    orders: Orders


@dataclass
class ReportMetadata(KVConnectorWorkerMetadata):  # type: ignore[misc]
    report: Report

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        return ReportMetadata(self.report.merged(other.report))


class ObjectCacheConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Prefix KV of one vLLM engine in object storage (`docs/vllm.md`).

    Raises ConfigError when it is made for a configuration that would not be right or would never hit, saying what to
    set. Where a model's KV cannot be stored it says so once, and does nothing.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        options = VllmOptions.from_extra(vllm_config.kv_transfer_config.kv_connector_extra_config)
        facts = Facts.of(vllm_config, kv_cache_config, options)
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        if facts.idle_reason:
            if role == KVConnectorRole.SCHEDULER:
                log.warning("objectcache stores and loads nothing: %s", facts.idle_reason)
            return
        if role == KVConnectorRole.SCHEDULER:
            for text in facts.warnings:
                log.warning("objectcache: %s", text)
            self._scheduler = SchedulerSide.of(options, facts)
        else:
            self._worker = WorkerSide.of(options, facts)

    # -- vLLM asks the class ----------------------------------------------------------------------

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # a save that is dropped is a miss later on

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        return False  # a step that runs as one graph waits for all of its layers before it begins

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> ObjectCacheStats:
        return ObjectCacheStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: Any, per_engine_labelvalues: Any
    ) -> ObjectCacheMetrics:
        return ObjectCacheMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    # -- the scheduler's side ---------------------------------------------------------------------

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.bind_block_pool(gpu_block_pool)

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        super().bind_kv_cache_manager(kv_cache_manager)
        if self._scheduler is not None:
            self._scheduler.bind_kv_cache_manager(kv_cache_manager)

    def on_new_request(self, request: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.on_new_request(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        if self._scheduler is None:
            return 0, False
        return self._scheduler.get_num_new_matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            self._scheduler.update_state_after_alloc(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> OrdersMetadata:
        return OrdersMetadata(
            Orders(0) if self._scheduler is None else self._scheduler.build_connector_meta(scheduler_output)
        )

    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is not None:
            told = connector_output.kv_connector_worker_meta
            self._scheduler.update_connector_output(connector_output, None if told is None else told.report)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        if self._scheduler is not None:
            self._scheduler.request_finished(request, block_ids)
        return False, None  # blocks that are still read are held by a reference

    def take_events(self) -> Iterable[Any]:
        return () if self._scheduler is None else self._scheduler.take_events()

    def has_pending_push_work(self) -> bool:
        return self._scheduler is not None and self._scheduler.has_pending_push_work()

    def reset_cache(self) -> bool | None:
        if self._scheduler is not None:
            self._scheduler.reset_cache()
        return True

    # -- the worker's side ------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        if self._worker is not None:
            self._worker.register(kv_caches)

    def handle_preemptions(self, kv_connector_metadata: OrdersMetadata) -> None:
        if self._worker is not None:
            self._worker.bind(kv_connector_metadata.orders)

    def bind_connector_metadata(self, connector_metadata: OrdersMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None:
            self._worker.bind(connector_metadata.orders)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if self._worker is not None:
            orders = self._get_connector_metadata().orders
            self._worker.start_loads(wait_all=orders.full_graph or _runs_as_one_graph(forward_context))

    def wait_for_layer_load(self, layer_name: str) -> None:
        if self._worker is not None:
            self._worker.wait(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        pass  # what is stored is what is final, after the step

    def wait_for_save(self) -> None:
        if self._worker is not None:
            self._worker.end_step()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return None, (self._worker.finished_loads() or None) if self._worker is not None else None

    if KVConnectorTransferResults is not None:

        def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
            if self._worker is None:
                return KVConnectorTransferResults()
            failed = self._worker.failed_loads()
            return KVConnectorTransferResults(
                finished_recving=self._worker.finished_loads() | failed, failed_recving=failed
            )

    def get_block_ids_with_load_errors(self) -> set[int]:
        return set() if self._worker is None else self._worker.failed_blocks()

    def build_connector_worker_meta(self) -> ReportMetadata | None:
        if self._worker is None:
            return None
        # Every step, though nothing were new: the scheduler's side takes what a step computed as final by it.
        return ReportMetadata(self._worker.report() or Report(self._get_connector_metadata().orders.step))

    def get_kv_connector_stats(self) -> ObjectCacheStats | None:
        side = self._scheduler or self._worker
        data: Mapping[str, Any] = {} if side is None else side.take_stats()
        return ObjectCacheStats(data=dict(data)) if data else None

    # -- both -------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        for side in (self._scheduler, self._worker):
            if side is not None:
                side.close()


def _runs_as_one_graph(forward_context: Any) -> bool:
    mode = getattr(forward_context, "cudagraph_runtime_mode", None)
    return getattr(mode, "name", "") == "FULL"
