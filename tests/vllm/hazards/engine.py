"""vLLM's real scheduler, without a model."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    KVTransferConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorBase_V1
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from objectcache.connectors.vllm.options import AdmissionMode, VllmOptions
from objectcache.connectors.vllm.scheduler.saving_orders import Group
from objectcache.connectors.vllm.scheduler.side import SchedulerFacts, SchedulerSide
from tests.vllm.hazards import connector

TELLS_TABLES = hasattr(KVConnectorBase_V1, "bind_kv_cache_manager")
"""vLLM lets connectors see which blocks its windows have passed."""

BLOCK = 4
WINDOW = 8
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


@dataclass(frozen=True)
class Setting:
    """`safe`: loads are announced before they are verified. `second`: vLLM's model runner V2. `drafts`: tokens
    that are drafted ahead."""

    asynchronous: bool = False
    second: bool = False
    drafts: int = 0
    events: bool = False
    ranks: int = 2
    windowed: bool = False
    caching: bool = True
    safe: bool = False
    mode: AdmissionMode = AdmissionMode.IN_TIME
    blocks: int = 64
    budget: int = 16
    longest_prefill: int = 0
    sequences: int = 6

    @property
    def groups(self) -> int:
        return 2 if self.windowed else 1


@cache
def model_folder() -> str:
    folder = Path(tempfile.mkdtemp(prefix="hazards-"))
    (folder / "config.json").write_text(json.dumps(MODEL))
    return str(folder)


@cache
def _model() -> ModelConfig:
    return ModelConfig(model=model_folder(), skip_tokenizer_init=True, dtype="float32", max_model_len=512)


@cache
def _hasher() -> Any:
    kv_cache_utils.init_none_hash(sha256)
    return kv_cache_utils.get_request_block_hasher(BLOCK, sha256)


def build(setting: Setting, side: SchedulerSide) -> Scheduler:
    config = VllmConfig(
        model_config=_model(),
        scheduler_config=SchedulerConfig(
            max_num_seqs=setting.sequences,
            max_num_batched_tokens=max(setting.budget, setting.sequences),
            long_prefill_token_threshold=setting.longest_prefill,
            max_model_len=512,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            async_scheduling=setting.asynchronous,
        ),
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=setting.caching),
        parallel_config=ParallelConfig(),
        device_config=DeviceConfig("cpu"),
        kv_transfer_config=KVTransferConfig(
            kv_connector="HazardConnector",
            kv_role="kv_both",
            kv_connector_module_path="tests.vllm.hazards.connector",
            kv_load_failure_policy="recompute",
        ),
    )
    if setting.drafts:
        config.speculative_config = SpeculativeConfig(
            method="ngram",
            num_speculative_tokens=setting.drafts,
            prompt_lookup_max=2,
            prompt_lookup_min=1,
            target_model_config=_model(),
            target_parallel_config=ParallelConfig(),
        )
    config.cache_config.num_gpu_blocks = setting.blocks
    kinds: dict[str, Any] = {"block_size": BLOCK, "num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
    groups = [KVCacheGroupSpec(["full"], FullAttentionSpec(**kinds))]
    if setting.windowed:
        groups.append(KVCacheGroupSpec(["window"], SlidingWindowSpec(**kinds, sliding_window=WINDOW)))
    caches = KVCacheConfig(num_blocks=setting.blocks, kv_cache_tensors=[], kv_cache_groups=groups)
    connector.sides.append(side)
    kind = AsyncScheduler if setting.asynchronous else Scheduler
    with mock.patch.dict(os.environ, {"VLLM_USE_V2_MODEL_RUNNER": str(int(setting.second))}):
        scheduler = kind(
            vllm_config=config,
            kv_cache_config=caches,
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            log_stats=True,
        )
    assert scheduler.use_v2_model_runner is setting.second
    assert not connector.sides
    return scheduler


def side_of(setting: Setting, clock: Any) -> SchedulerSide:
    options = VllmOptions(url="file:///nowhere", admission=setting.mode, deadline_s=1.0, store_min_tokens=0)
    groups = (Group(BLOCK), Group(BLOCK, windowed=True))[: setting.groups]
    facts = SchedulerFacts(
        ranks=setting.ranks,
        groups=groups,
        hash_tokens=BLOCK,
        aligned_tokens=BLOCK,
        step_tokens=setting.budget,
        layerwise_safe=setting.safe,
        events=setting.events,
    )
    return SchedulerSide(options, facts, clock=clock)


def request(id: str, prompt: list[int], max_tokens: int, params: dict[str, Any] | None = None) -> Request:
    sampling = SamplingParams(
        max_tokens=max_tokens,
        ignore_eos=True,
        extra_args={"kv_transfer_params": params} if params else None,
    )
    return Request(id, prompt, sampling, None, block_hasher=_hasher())
