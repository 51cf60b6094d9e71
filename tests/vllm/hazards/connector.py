"""The scheduler's side as vLLM's scheduler loads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorBase_V1, SupportsHMA

from objectcache.connectors.vllm.connector import OrdersMetadata
from objectcache.connectors.vllm.scheduler.side import SchedulerSide

sides: list[SchedulerSide] = []
"""Of the scheduler that is built next."""


class HazardConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.side = sides.pop()

    def on_new_request(self, request: Any) -> None:
        self.side.on_new_request(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self.side.get_num_new_matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self.side.update_state_after_alloc(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> OrdersMetadata:
        return OrdersMetadata(self.side.build_connector_meta(scheduler_output))

    def update_connector_output(self, connector_output: Any) -> None:
        meta = connector_output.kv_connector_worker_meta
        self.side.update_connector_output(connector_output, None if meta is None else meta.report)

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        return self.side.request_finished(request)

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        return self.side.request_finished(request)

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        self.side.bind_kv_cache_manager(kv_cache_manager)

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        self.side.bind_gpu_block_pool(gpu_block_pool)

    def has_pending_push_work(self) -> bool:
        return self.side.has_pending_push_work()

    def has_pending_block_frees(self) -> bool:
        return self.side.has_pending_block_frees()

    def take_events(self) -> Iterable[Any]:
        return self.side.take_events()

    def reset_cache(self) -> bool:
        return self.side.reset_cache()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        raise AssertionError("this is no worker")

    def wait_for_layer_load(self, layer_name: str) -> None:
        raise AssertionError("this is no worker")

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        raise AssertionError("this is no worker")

    def wait_for_save(self) -> None:
        raise AssertionError("this is no worker")
