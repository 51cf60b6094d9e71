"""A program: an engine of a model's configuration, with dummy weights, whose connector only says what it sees.

    python -m tests.vllm.facts_engine MODEL '{"dtype": "float32"}'

prints one JSON object: the facts of both sides, this rank's namespace, and what the scheduler's side learned of hashes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

from objectcache.connectors.vllm.naming.namespaces import Identity, idle_reason
from objectcache.connectors.vllm.naming.reading import engine_facts, none_hash
from objectcache.connectors.vllm.naming.safety import safety
from objectcache.connectors.vllm.naming.weights import Weights

SEEN: dict[str, Any] = {}


class Recorder(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        worker = role == KVConnectorRole.WORKER
        self.facts = engine_facts(vllm_config, kv_cache_config, worker=worker)
        SEEN["worker" if worker else "scheduler"] = asdict(self.facts)
        SEEN["safety"] = asdict(safety(self.facts))
        SEEN["idle"] = idle_reason(self.facts)

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        facts = self.facts.seen(kv_caches)
        SEEN["layout"] = facts.block_layout
        SEEN["block_bytes"] = {name: kv_caches[name][:1].numel() * kv_caches[name].element_size() for name in kv_caches}
        if not SEEN["idle"]:
            identity = Identity(facts, Weights(facts.weights, facts.draft))
            SEEN["namespace"] = identity.namespace(0, b"\x01" * 32, None).to_dict()
            SEEN["groups"] = [asdict(group) for group in identity.groups]

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        SEEN["none_hash"] = none_hash().hex()
        SEEN["hashes"] = [hash.hex() for hash in request.block_hashes]
        return 0, False

    def update_state_after_alloc(self, *_: Any) -> None:
        pass

    def build_connector_meta(self, _: Any) -> Any:
        return KVConnectorMetadata()

    def start_load_kv(self, *_: Any, **__: Any) -> None:
        pass

    def wait_for_layer_load(self, _: str) -> None:
        pass

    def save_kv_layer(self, *_: Any, **__: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        pass

    def request_finished(self, *_: Any) -> tuple[bool, None]:
        return False, None

    def request_finished_all_groups(self, *_: Any) -> tuple[bool, None]:
        return False, None


def main(model: str, arguments: dict[str, Any]) -> None:
    from vllm import LLM, SamplingParams

    transfer = {
        "kv_connector": "Recorder",
        "kv_connector_module_path": "tests.vllm.facts_engine",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
    }
    engine = LLM(
        model=model,
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=256,
        enforce_eager=True,
        kv_transfer_config=transfer,
        distributed_executor_backend="uni",
        **arguments,
    )
    engine.generate(
        [{"prompt_token_ids": list(range(3, 103))}],
        SamplingParams(max_tokens=1, temperature=0, detokenize=False),
        use_tqdm=False,
    )
    from tests.vllm import facts_engine  # where vLLM has loaded it, which is not __main__

    print("SEEN " + json.dumps(facts_engine.SEEN))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
