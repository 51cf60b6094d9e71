"""The class that vLLM loads: its hooks, handed on to the side of the connector that lives in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import torch
import vllm

from objectcache.connectors.vllm.messages import Orders, Report, declined
from objectcache.connectors.vllm.naming.facts import EngineFacts
from objectcache.connectors.vllm.naming.group_facts import GroupKind
from objectcache.connectors.vllm.naming.namespaces import Identity, check_hashes, idle_reason
from objectcache.connectors.vllm.naming.reading import all_layers_ask, engine_facts, none_hash
from objectcache.connectors.vllm.naming.safety import policy_warning, safety
from objectcache.connectors.vllm.naming.versions import check_version, lacks_interface
from objectcache.connectors.vllm.naming.weights import Weights
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.scheduler.saving_orders import Group
from objectcache.connectors.vllm.scheduler.side import SchedulerFacts, SchedulerSide
from objectcache.connectors.vllm.scheduler.steps import FullGraphs
from objectcache.connectors.vllm.stats import scheduler_stats, worker_stats
from objectcache.connectors.vllm.telling import scheduler_counts, worker_counts
from objectcache.connectors.vllm.watching import Watching
from objectcache.connectors.vllm.worker.side import WorkerSide
from objectcache.errors import ObjectCacheError

try:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import (
        KVConnectorBase_V1,
        KVConnectorMetadata,
        KVConnectorRole,
        KVConnectorWorkerMetadata,
        SupportsHMA,
    )

    from objectcache.connectors.vllm.metrics import ObjectCacheMetrics, ObjectCacheStats
except ImportError as error:
    raise lacks_interface(vllm.__version__, str(error)) from error

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
        worker = role == KVConnectorRole.WORKER
        self._options = VllmOptions.from_extra(vllm_config.kv_transfer_config.kv_connector_extra_config)
        check_version(vllm.__version__, untested=self._options.untested_vllm)
        self._facts = facts = engine_facts(vllm_config, kv_cache_config, worker=worker)
        check_hashes(facts)
        idle = idle_reason(facts)
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._weights: Weights | None = None
        self._bound: Orders | None = None
        self._asks = True  # each layer for its KV, before it reads
        self._watching = Watching(self._options, facts, worker=worker)
        if worker:
            self._weights = None if idle else _weights(self._options, facts)  # the other side says why
            self._asks = not facts.draft_method and all_layers_ask(vllm_config, facts)
            return
        if idle:
            log.warning("objectcache stores and loads nothing of this model: %s", idle)
            return
        if warning := policy_warning(facts):
            log.warning("objectcache: %s", warning)
        events = vllm_config.kv_events_config
        options = replace(
            self._options, load=self._options.load and facts.loads, store=self._options.store and facts.saves
        )
        self._scheduler = SchedulerSide(
            options, scheduler_facts(facts, vllm_config, events=bool(events and events.enable_kv_cache_events))
        )

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
            self._scheduler.bind_gpu_block_pool(gpu_block_pool)

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        self._kv_cache_manager = kv_cache_manager
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
            self._scheduler.request_finished(request)
        return False, None  # blocks that are still read are held by a reference

    def take_events(self) -> Iterable[Any]:
        return () if self._scheduler is None else self._scheduler.take_events()

    def has_pending_push_work(self) -> bool:
        return self._scheduler is not None and self._scheduler.has_pending_push_work()

    def has_pending_block_frees(self) -> bool:
        return self._scheduler is not None and self._scheduler.has_pending_block_frees()

    def reset_cache(self) -> bool | None:
        if self._scheduler is not None:
            self._scheduler.reset_cache()
        return True

    # -- the worker's side ------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        if self._weights is None:
            return
        try:
            identity = Identity(self._facts.seen(kv_caches), self._weights, salt=self._options.salt)
        except ObjectCacheError as error:
            log.exception("objectcache stores and loads nothing of this model")
            self._watching.failed(error)
            return
        facts = self._facts
        self._worker = WorkerSide(self._options, self._watching.watched(identity), facts.rank, facts.ranks)
        self._worker.register(kv_caches, facts.num_blocks)

    def handle_preemptions(self, kv_connector_metadata: OrdersMetadata) -> None:
        self._bind(kv_connector_metadata.orders)

    def bind_connector_metadata(self, connector_metadata: OrdersMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        self._bind(connector_metadata.orders)

    def _bind(self, orders: Orders) -> None:
        """Once a step: runners call both of the above, or only the latter."""
        if self._worker is not None and orders is not self._bound:
            self._bound = orders
            self._worker.bind(orders)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if self._worker is not None:
            orders = self._get_connector_metadata().orders
            as_one = orders.full_graph or _runs_as_one_graph(forward_context)
            self._worker.start_loads(wait_all=as_one or not self._asks)

    def wait_for_layer_load(self, layer_name: str) -> None:
        if self._worker is not None:
            self._worker.wait(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        pass  # what is stored is what is final, after the step

    def wait_for_save(self) -> None:
        if self._worker is not None:
            self._worker.end_step()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return None, None if self._worker is None else self._worker.finished_loads() or None

    if KVConnectorTransferResults is not None:

        def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
            if self._worker is None:
                return KVConnectorTransferResults()
            finished = self._worker.finished_loads()
            return KVConnectorTransferResults(
                finished_recving=finished, failed_recving=self._worker.failed_loads() & finished
            )

        def get_block_ids_with_load_errors(self) -> set[int]:
            return set() if self._worker is None else self._worker.failed_blocks()

    else:

        def get_block_ids_with_load_errors(self) -> set[int]:
            if self._worker is None:
                return set()
            return self._worker.failed_blocks() | self._worker.failed_parked_blocks()

    def build_connector_worker_meta(self) -> ReportMetadata:
        if self._worker is None:
            return ReportMetadata(declined(self._get_connector_metadata().orders, self._facts.rank))
        # Every step, though nothing were new: the scheduler's side takes what a step computed as final by it.
        return ReportMetadata(self._worker.report() or Report(self._get_connector_metadata().orders.step))

    def get_kv_connector_stats(self) -> ObjectCacheStats | None:
        data: dict[str, float] = {}
        if self._worker is not None:
            new = self._worker.take_stats()
            if new:
                data = worker_stats(new)
            self._watching.count(worker_counts(new) if new else {}, left_alone=self._worker.left_alone)
        elif self._scheduler is not None:
            counters = self._scheduler.counters
            if counters:
                data = scheduler_stats(counters)
                self._watching.count(scheduler_counts(counters))
                counters.clear()
        return ObjectCacheStats(data=data) if data else None

    # -- both -------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._weights is not None:
            self._weights.close()
        self._watching.close()


def _weights(options: VllmOptions, facts: EngineFacts) -> Weights:
    return Weights(facts.weights, facts.draft, given=options.model_fingerprint)


def scheduler_facts(facts: EngineFacts, vllm_config: Any, *, events: bool) -> SchedulerFacts:
    """What the scheduler's side needs of an engine."""
    speculative = vllm_config.speculative_config
    mode = facts.cudagraph_mode
    return SchedulerFacts(
        ranks=facts.ranks,
        groups=tuple(Group(group.block_tokens, group.kind is GroupKind.WINDOW) for group in facts.groups),
        hash_tokens=facts.hashes.block_tokens,
        aligned_tokens=lcm(*(group.block_tokens for group in facts.groups)),
        step_tokens=facts.max_step_tokens,
        layerwise_safe=safety(facts).layerwise,
        none_hash=none_hash,
        graphs=FullGraphs.ALWAYS if mode == "FULL" else FullGraphs.DECODING if "FULL" in mode else FullGraphs.NEVER,
        draft_tokens=int(speculative.num_speculative_tokens or 0) if speculative else 0,
        events=events,
    )


def _runs_as_one_graph(forward_context: Any) -> bool:
    mode = getattr(forward_context, "cudagraph_runtime_mode", None)
    return getattr(mode, "name", "") == "FULL"
