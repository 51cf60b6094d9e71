"""The facts of an engine, read from vLLM's own configuration."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from objectcache.connectors.vllm.naming.facts import EngineFacts, HashFacts, WeightsFacts
from objectcache.connectors.vllm.naming.group_facts import group_facts

# What a model's configuration says about where it came from, who reads it, and how its output is used.
_NOT_ABOUT_KV = frozenset(
    (
        "_name_or_path",
        "_commit_hash",
        "_attn_implementation",
        "architectures",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    )
)
_LENGTH_DEPENDENT_ROPE = {"longrope", "dynamic", "su"}


def engine_facts(vllm_config: Any, kv_cache_config: Any, *, worker: bool) -> EngineFacts:
    """Of a VllmConfig and a KVCacheConfig. `worker`: this process is a rank, and its model is loaded."""
    import vllm

    model, cache, parallel = vllm_config.model_config, vllm_config.cache_config, vllm_config.parallel_config
    scheduler, transfer = vllm_config.scheduler_config, vllm_config.kv_transfer_config
    device = str(vllm_config.device_config.device_type)
    tensor_rank, stage = _place(parallel) if worker else (0, 0)
    groups = tuple(
        group_facts(
            group,
            index,
            tensor_parallel=parallel.tensor_parallel_size,
            target_layers=model.get_total_num_hidden_layers() if vllm_config.speculative_config else 0,
        )
        for index, group in enumerate(kv_cache_config.kv_cache_groups)
    )
    dtype = _name(model.dtype)
    return EngineFacts(
        version=vllm.__version__,
        architecture=str(model.architecture),
        weights=weights_facts(model, vllm_config.load_config, device),
        groups=groups,
        hashes=hash_facts(vllm_config, kv_cache_config),
        dtype=dtype,
        kv_dtype=dtype if cache.cache_dtype == "auto" else str(cache.cache_dtype),
        quantization=_quantization(model),
        tensor_parallel=parallel.tensor_parallel_size,
        tensor_rank=tensor_rank,
        pipeline_parallel=parallel.pipeline_parallel_size,
        stage=stage,
        draft=_draft(vllm_config, device),
        draft_method=str(vllm_config.speculative_config.method) if vllm_config.speculative_config else "",
        instruction_set=_instruction_set() if device == "cpu" else "",
        python=".".join(platform.python_version_tuple()[:2]),
        longest_rope=model.max_model_len if _rope_types(model.hf_config) & _LENGTH_DEPENDENT_ROPE else 0,
        backends=_backends(vllm_config, groups) if worker else (),
        new_runner=bool(getattr(vllm_config, "use_v2_model_runner", False)),
        async_scheduling=bool(scheduler.async_scheduling),
        prefix_caching=bool(cache.enable_prefix_caching),
        recompute_failures=transfer.kv_load_failure_policy == "recompute",
        cudagraph_mode=_name(getattr(vllm_config.compilation_config.cudagraph_mode, "name", "NONE")),
        loads=bool(transfer.is_kv_consumer),
        saves=bool(transfer.is_kv_producer),
        num_blocks=int(kv_cache_config.num_blocks),
        max_step_tokens=int(scheduler.max_num_batched_tokens),
        problems=_problems(vllm_config, kv_cache_config),
    )


def none_hash() -> bytes:
    """What the hash of a first block begins with, in the scheduler's process and once vLLM has made it; b"" before."""
    from vllm.v1.core import kv_cache_utils

    return bytes(getattr(kv_cache_utils, "NONE_HASH", b""))


def all_layers_ask(vllm_config: Any, facts: EngineFacts) -> bool:
    """Whether vLLM asks for the KV of each layer before the layer reads it, within the step's own forward: that of a
    draft model comes after it, and only these two classes have the hook."""
    layers = vllm_config.compilation_config.static_forward_context
    return all(
        any(kind.__name__ in ("Attention", "MLAAttention") for kind in type(layers.get(layer.name)).__mro__)
        and not layer.draft
        for layer in facts.layers
    )


def hash_facts(vllm_config: Any, kv_cache_config: Any) -> HashFacts:
    """Raises what vLLM raises for block sizes that do not go together."""
    from vllm.v1.core import kv_cache_utils

    algorithm = str(vllm_config.cache_config.prefix_caching_hash_algo)
    fixed = algorithm.startswith("sha256") and hasattr(kv_cache_utils, "DEFAULT_NONE_HASH_SEED")
    _, block_tokens = kv_cache_utils.resolve_kv_cache_block_sizes(kv_cache_config, vllm_config)
    return HashFacts(algorithm, not fixed and os.environ.get("PYTHONHASHSEED") is None, int(block_tokens))


def weights_facts(model: Any, load: Any, device: str) -> WeightsFacts:
    """Of a ModelConfig and a LoadConfig. What Hugging Face's cache holds of a model is looked up there, offline."""
    name = str(getattr(model, "model_weights", "") or model.model)
    return WeightsFacts(
        name=name,
        path=_local_path(name, model.revision, load.download_dir),
        config=config_json(model.hf_config),
        load_format=str(getattr(load.load_format, "value", load.load_format)),
        device=device,
        quantization=str(model.quantization or ""),
    )


def config_json(hf_config: Any) -> str:
    """Canonical JSON of a model's configuration, without paths and versions of who wrote it."""
    return json.dumps(_about_kv(hf_config.to_dict()), sort_keys=True, separators=(",", ":"), default=str)


def _about_kv(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _about_kv(item) for key, item in value.items() if key not in _NOT_ABOUT_KV}
    if isinstance(value, list | tuple):
        return [_about_kv(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return value


def _local_path(name: str, revision: str | None, download_dir: str | None) -> str:
    if Path(name).exists():
        return str(Path(name).resolve())
    if "://" in name or os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true"):
        return ""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(name, revision=revision, cache_dir=download_dir, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return ""


def _draft(vllm_config: Any, device: str) -> WeightsFacts | None:
    speculative = vllm_config.speculative_config
    model = getattr(speculative, "draft_model_config", None) if speculative else None
    return weights_facts(model, vllm_config.load_config, device) if model is not None and model.model else None


def _place(parallel: Any) -> tuple[int, int]:
    """This process's tensor rank and pipeline stage."""
    from vllm.distributed import parallel_state

    if parallel_state.model_parallel_is_initialized():
        return parallel_state.get_tp_group().rank_in_group, parallel_state.get_pp_group().rank_in_group
    rank = parallel.rank % (parallel.tensor_parallel_size * parallel.pipeline_parallel_size)
    return rank % parallel.tensor_parallel_size, rank // parallel.tensor_parallel_size


def _backends(vllm_config: Any, groups: Any) -> tuple[str, ...]:
    """Names of the attention backends that this rank's layers use."""
    layers = vllm_config.compilation_config.static_forward_context
    found = set()
    for name in (layer.name for group in groups for layer in group.layers):
        get = getattr(layers.get(name), "get_attn_backend", None)
        found.add(str(get().get_name()) if get is not None else "unknown")
    return tuple(sorted(found))


def _instruction_set() -> str:
    """What decides how vLLM's kernels on CPU pack a block."""
    import torch

    has = {
        name: bool(test())
        for name, test in (
            ("amx", getattr(torch.cpu, "_is_amx_tile_supported", bool)),
            ("avx512", getattr(torch.cpu, "_is_avx512_supported", bool)),
            ("avx512_bf16", getattr(torch.cpu, "_is_avx512_bf16_supported", bool)),
        )
    }
    names = [name for name, there in has.items() if there]
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *names])


def _quantization(model: Any) -> str:
    given = getattr(model, "quantization_config", None)
    return str(model.quantization or "") + (f" {given}" if model.quantization and given else "")


def _rope_types(hf_config: Any) -> set[str]:
    """Kinds of rotary embedding anywhere in a configuration."""
    found: set[str] = set()
    todo: list[Any] = [hf_config.to_dict()]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            found |= {str(item[key]) for key in ("rope_type", "type") if isinstance(item.get(key), str)}
            todo += item.values()
        elif isinstance(item, list | tuple):
            todo += item
    return found


def _problems(vllm_config: Any, kv_cache_config: Any) -> tuple[str, ...]:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1

    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    found = {
        "context parallelism is not supported": max(
            getattr(parallel, "decode_context_parallel_size", 1), getattr(parallel, "prefill_context_parallel_size", 1)
        )
        > 1,
        "encoder-decoder models are not supported": bool(model.is_encoder_decoder),
        "diffusion models are not supported": bool(getattr(model, "is_diffusion", False)),
        "only models that generate text are supported": model.runner_type != "generate",
        "KV scales that vLLM computes from the first requests (calculate_kv_scales) are of one process only": bool(
            getattr(vllm_config.cache_config, "calculate_kv_scales", False)
        ),
        "images have no names without --mm-processor-cache-gb or prefix caching: each process counts them": (
            bool(getattr(model, "multimodal_config", None))
            and not getattr(model.multimodal_config, "mm_processor_cache_gb", 1)
            and not vllm_config.cache_config.enable_prefix_caching
        ),
        "with an external launcher each rank schedules for itself, and hears of no other": str(
            parallel.distributed_executor_backend
        )
        == "external_launcher"
        and parallel.tensor_parallel_size * parallel.pipeline_parallel_size > 1,
        "with this vLLM, models of several KV cache groups are not supported: it does not tell connectors which blocks "
        "of a window are still there": len(kv_cache_config.kv_cache_groups) > 1
        and not hasattr(KVConnectorBase_V1, "bind_kv_cache_manager"),
    }
    return tuple(problem for problem, is_so in found.items() if is_so)


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.")
