"""What is read of real engines: one model for each way in which vLLM keeps KV."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from objectcache.connectors.vllm.naming.facts import EngineFacts

pytest.importorskip("vllm")

pytestmark = pytest.mark.filterwarnings("ignore")  # of vLLM and what it imports

START_S = 110.0
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
_COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}


def write_config(name: str, folder: Path) -> str:
    import transformers

    made: Any = {
        "llama": lambda: transformers.LlamaConfig(
            num_hidden_layers=4, num_key_value_heads=2, head_dim=32, architectures=["LlamaForCausalLM"], **_COMMON
        ),
        "gemma3": lambda: transformers.Gemma3TextConfig(
            num_hidden_layers=4,
            num_key_value_heads=2,
            head_dim=32,
            sliding_window=64,
            layer_types=["sliding_attention", "full_attention"] * 2,
            architectures=["Gemma3ForCausalLM"],
            **_COMMON,
        ),
        "deepseek2": lambda: transformers.DeepseekV2Config(
            num_hidden_layers=2,
            num_key_value_heads=4,
            kv_lora_rank=512,
            q_lora_rank=None,
            qk_nope_head_dim=32,
            qk_rope_head_dim=64,
            v_head_dim=32,
            first_k_dense_replace=2,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=1,
            n_group=1,
            topk_group=1,
            moe_intermediate_size=64,
            architectures=["DeepseekV2ForCausalLM"],
            **_COMMON,
        ),
        "mamba2": lambda: transformers.Mamba2Config(
            num_hidden_layers=2,
            vocab_size=512,
            hidden_size=128,
            num_heads=4,
            head_dim=64,
            state_size=16,
            n_groups=1,
            architectures=["Mamba2ForCausalLM"],
        ),
    }[name]
    made().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def _seen(model: str, arguments: str, variables: tuple[tuple[str, str], ...]) -> Mapping[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.vllm.facts_engine", model, arguments],
        env=environment | ENVIRONMENT | dict(variables),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("SEEN ")), None)
    assert line is not None, done.stdout[-3000:] + done.stderr[-3000:]
    found: Mapping[str, Any] = json.loads(line.removeprefix("SEEN "))
    return found


def seen(models: Path, name: str, *, variables: Mapping[str, str] | None = None, **arguments: Any) -> Mapping[str, Any]:
    folder = write_config(name, models / name)
    return _seen(folder, json.dumps({"dtype": "float32"} | arguments), tuple((variables or {}).items()))


def test_a_dense_model(models: Path) -> None:
    found = seen(models, "llama", block_size=32)
    worker, scheduler = found["worker"], found["scheduler"]
    (group,) = worker["groups"]
    assert [layer["number"] for layer in group["layers"]] == [0, 1, 2, 3]
    assert (group["kind"], group["block_tokens"], group["window_tokens"]) == ("full", 32, 0)
    assert worker["hashes"]["block_tokens"] == 32
    assert worker["backends"]
    assert worker["instruction_set"]
    assert found["idle"] == ""
    # But for what only a worker sees, both sides see the same.
    assert {name for name in worker if worker[name] != scheduler[name]} == {"backends"}


def test_a_hybrid_of_windows_and_full_attention(models: Path) -> None:
    found = seen(models, "gemma3", block_size=32)
    groups = {group["kind"]: group for group in found["worker"]["groups"]}
    assert groups["window"]["window_tokens"] == 63
    assert [layer["number"] for layer in groups["full"]["layers"]] == [1, 3]
    layout = {group["rule"]: group for group in found["namespace"]["layout"]["groups"]}
    assert [shard["layers"] for shard in layout["prefix"]["shards"]] == [[1, 3]]
    assert not found["safety"]["layerwise"]


def test_mla_has_one_latent(models: Path) -> None:
    found = seen(models, "deepseek2")
    (group,) = found["worker"]["groups"]
    assert (group["kind"], group["tensor_shards"]) == ("mla", 1)
    assert found["idle"] == ""


@pytest.mark.parametrize(
    ("name", "arguments"), [("llama", {"block_size": 32}), ("gemma3", {"block_size": 32}), ("deepseek2", {})]
)
def test_blocks_have_the_bytes_that_the_layout_says(models: Path, name: str, arguments: dict[str, Any]) -> None:
    found = seen(models, name, **arguments)
    said = {layer["name"]: layer["block_bytes"] for group in found["worker"]["groups"] for layer in group["layers"]}
    assert said == found["block_bytes"]
    assert [group["layer_names"] for group in found["groups"]] == [
        [layer["name"] for layer in group["layers"]] for group in found["worker"]["groups"]
    ]


def test_states_are_left_to_the_engine(models: Path) -> None:
    assert "MambaSpec" in seen(models, "mamba2")["idle"]


def test_the_seed_of_hashes_is_the_one_they_are_made_with(models: Path) -> None:
    found = seen(models, "llama", block_size=32)
    assert len(found["hashes"]) == 3
    one = pickle.dumps((bytes.fromhex(found["none_hash"]), tuple(range(3, 35)), None), protocol=pickle.HIGHEST_PROTOCOL)
    assert found["hashes"][0] == hashlib.sha256(one).hexdigest()


def test_seeds_and_algorithms_of_hashes(models: Path) -> None:
    plain = seen(models, "llama", block_size=32)
    seeded = seen(
        models, "llama", block_size=32, variables={"PYTHONHASHSEED": "7"}, prefix_caching_hash_algo="sha256_cbor"
    )
    assert seeded["worker"]["hashes"] == {"algorithm": "sha256_cbor", "random_seed": False, "block_tokens": 32}
    assert seeded["none_hash"] != plain["none_hash"]
    assert "python" in plain["namespace"]["extra"]
    assert "python" not in seeded["namespace"]["extra"]


# -- of configurations alone ----------------------------------------------------------------------------


def configured(models: Path, name: str, groups: int = 1, **arguments: Any) -> EngineFacts:
    """Of an engine that is never started, with one full-attention group or more."""
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    from objectcache.connectors.vllm.naming.reading import engine_facts

    transfer = {
        "kv_connector": "Recorder",
        "kv_connector_module_path": "tests.vllm.facts_engine",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
    }
    arguments = {"kv_transfer_config": transfer, "load_format": "dummy", **arguments}
    config = EngineArgs(
        model=write_config(name, models / name),
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=256,
        enforce_eager=True,
        **arguments,
    ).create_engine_config()
    spec = FullAttentionSpec(
        block_size=config.cache_config.block_size, num_kv_heads=1, head_size=32, dtype=torch.float32
    )
    held = [KVCacheGroupSpec([f"model.layers.{index}.self_attn.attn"], spec) for index in range(groups)]
    return engine_facts(config, KVCacheConfig(10, [], held), worker=False)


def test_ranks_roles_and_policies(models: Path) -> None:
    plain = configured(models, "llama")
    assert (plain.recompute_failures, plain.loads, plain.saves, plain.new_runner) == (True, True, True, False)
    other = {
        "kv_connector": "Recorder",
        "kv_connector_module_path": "tests.vllm.facts_engine",
        "kv_role": "kv_consumer",
    }
    found = configured(
        models,
        "llama",
        kv_transfer_config=other,
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        enable_prefix_caching=False,
    )
    assert (found.recompute_failures, found.loads, found.saves) == (False, True, False)
    assert (found.tensor_parallel, found.ranks, found.groups[0].tensor_shards) == (2, 2, 2)
    assert not found.prefix_caching


def test_seeds_are_fixed_or_drawn_as_this_vllm_does_it(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    draws = configured(models, "llama").minor_version < (0, 32)
    assert configured(models, "llama").hashes.random_seed is draws
    assert configured(models, "llama", prefix_caching_hash_algo="xxhash").hashes.random_seed
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert not configured(models, "llama").hashes.random_seed


def test_older_releases_do_not_tell_of_several_groups(models: Path) -> None:
    facts = configured(models, "llama", groups=2)
    assert bool(facts.problem) is (facts.minor_version < (0, 32))
