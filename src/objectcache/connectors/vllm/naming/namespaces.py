"""How the KV of one rank is named: its layout, its parts, and the namespace that holds whatever must be the same.

Tensor ranks share a namespace, and have a shard each of every group. A pipeline stage has a namespace of its own, since
a rank knows no layers but its own.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from typing import Any

from objectcache.cache.base import PartId
from objectcache.connectors.vllm.messages import Adapter
from objectcache.connectors.vllm.naming.facts import EngineFacts
from objectcache.connectors.vllm.naming.group_facts import GroupKind
from objectcache.connectors.vllm.naming.weights import Weights
from objectcache.errors import ConfigError, LayoutError
from objectcache.keys import Namespace, salt_digest
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule

KEPT_NAMESPACES = 64
_ROPE = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor")


@dataclass(frozen=True, slots=True)
class NamedGroup:
    """A group of the layout. `index` is the layout's and vLLM's, `layer_names` are in layer order, `block_tokens`
    are a chunk's. `key_stride` is how many of vLLM's block hashes one chunk covers: the last of them names it."""

    index: int
    layer_names: tuple[str, ...]
    block_tokens: int
    key_stride: int
    rule: MatchRule


def check_hashes(facts: EngineFacts) -> None:
    """Raises ConfigError where vLLM's block hashes name nothing that could be shared."""
    if not facts.hashes.algorithm.startswith("sha256"):
        raise ConfigError(
            f"prefix_caching_hash_algo {facts.hashes.algorithm!r} is no cryptographic hash: two prompts may have the "
            "same name. Use --prefix-caching-hash-algo sha256 (or sha256_cbor)"
        )
    if facts.hashes.random_seed:
        raise ConfigError(
            "this vLLM draws a new seed for its block hashes in every process, so that nothing is found again: set "
            "PYTHONHASHSEED, to the same number on all servers that share KV"
        )


def idle_reason(facts: EngineFacts) -> str:
    """Why nothing of this engine can be cached; empty where it can."""
    if facts.problem:
        return facts.problem
    try:
        make_layout(facts)
    except LayoutError as error:
        return str(error)
    return ""


def make_layout(facts: EngineFacts) -> KVLayout:
    """Of this rank's pipeline stage, with all of its tensor ranks. Its groups are vLLM's, in vLLM's order.

    Raises LayoutError for what no layout can describe.
    """
    numbers = {layer.name: number for number, layer in enumerate(facts.layers)}
    first_rank = facts.stage * facts.tensor_parallel
    groups = []
    for group in facts.groups:
        if not group.layers:
            raise LayoutError(f"pipeline stage {facts.stage} has no layer of KV cache group {group.index}")
        if group.block_tokens % facts.hashes.block_tokens:
            raise LayoutError(
                f"blocks of {group.block_tokens} tokens are no multiple of a block hash's {facts.hashes.block_tokens}"
            )
        replicas = facts.tensor_parallel // group.tensor_shards
        layers = sorted((numbers[layer.name], layer.block_bytes) for layer in group.layers)
        shards = tuple(
            KVShard(
                index,
                tuple(number for number, _ in layers),
                tuple(size for _, size in layers),
                tuple(range(first_rank + index * replicas, first_rank + (index + 1) * replicas)),
            )
            for index in range(group.tensor_shards)
        )
        rule = MatchRule.WINDOW if group.kind is GroupKind.WINDOW else MatchRule.PREFIX
        groups.append(KVGroup(f"{group.kind}-{group.index}", group.block_tokens, shards, rule, group.window_tokens))
    return KVLayout(tuple(groups))


class Identity:
    """What one rank's KV is called. Thread-safe.

    `groups` and `parts` go together: a part is this rank's shard of a group. `writes` says of each part whether this
    rank is the one that stores it, `saves` whether it is of any. Raises LayoutError where nothing can be cached (see
    `idle_reason`), ConfigError for hashes that cannot be shared.
    """

    def __init__(self, facts: EngineFacts, weights: Weights, *, salt: str = "") -> None:
        if facts.problem:
            raise LayoutError(facts.problem)
        check_hashes(facts)
        self.layout = make_layout(facts)
        self.groups = tuple(
            NamedGroup(
                group.index,
                tuple(layer.name for layer in facts.layers if layer in group.layers),
                group.block_tokens,
                group.block_tokens // facts.hashes.block_tokens,
                laid.rule,
            )
            for group, laid in zip(facts.groups, self.layout.groups, strict=True)
        )
        shards = [laid.shard_of(facts.rank) for laid in self.layout.groups]
        self.parts = tuple(PartId(index, shard.index) for index, shard in enumerate(shards) if shard is not None)
        self.writes = tuple(shard.writer == facts.rank for shard in shards if shard is not None)
        self.saves = facts.saves and any(self.writes)
        self._facts = facts
        self._weights = weights
        self._salt = salt_digest(salt)
        self._extra = _extra(facts)
        self._lock = threading.Lock()
        self._made: dict[tuple[int, bytes, str], Namespace] = {}

    def namespace(self, epoch: int, none_hash: bytes, adapter: Adapter | None = None) -> Namespace:
        """Of KV that is computed now. `none_hash` is what vLLM's first block hash begins with.

        Raises NotReadyError while the weights are being read, and ConfigError where they, or an adapter's, cannot be.
        """
        if not none_hash:
            raise ConfigError("vLLM has not said what its block hashes begin with")
        key = (epoch, none_hash, self._weights.adapter(adapter))
        with self._lock:
            made = self._made.get(key)
        if made is None:
            made = self._make(*key)
            with self._lock:
                self._made = dict(list(self._made.items())[1 - KEPT_NAMESPACES :]) | {key: made}
        return made

    def _make(self, epoch: int, none_hash: bytes, adapter: str) -> Namespace:
        facts, model, draft = self._facts, self._weights.model(), self._weights.draft()
        return Namespace(
            model=model,
            layout=self.layout,
            kv_dtype=facts.kv_dtype,
            adapter=adapter,
            kv_scales="" if facts.kv_dtype == facts.dtype else "of the checkpoint",
            attention=f"{', '.join(facts.backends)}: {facts.block_layout}",
            hash_algorithm=f"vllm {facts.hashes.algorithm}",
            hash_seed=none_hash.hex(),
            salt_sha256=self._salt,
            epoch=epoch,
            extra=self._extra | ({"draft": f"{facts.draft_method} {draft}"} if draft else {}),
        )


def _extra(facts: EngineFacts) -> dict[str, str]:
    config: dict[str, Any] = json.loads(facts.weights.config or "{}")
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    rope = {name: part[name] for part in (config, text or {}) for name in _ROPE if part.get(name) is not None}
    major, minor = facts.minor_version
    extra = {
        # Kernels and models change between minor versions, and with them what blocks hold.
        "engine": f"vllm {major}.{minor}",
        "architecture": facts.architecture,
        "config_sha256": hashlib.sha256(facts.weights.config.encode()).hexdigest(),
        "rope": json.dumps(rope, sort_keys=True, separators=(",", ":")),
        "dtype": facts.dtype,
        "quantization": facts.quantization,
        "device": facts.weights.device,
        "tensor_parallel": str(facts.tensor_parallel),
        "pipeline": f"stage {facts.stage} of {facts.pipeline_parallel}",
        "layers": _layer_words(facts),
        "hash_block_tokens": str(facts.hashes.block_tokens),
    }
    if facts.instruction_set:
        extra["instruction_set"] = facts.instruction_set
    if facts.hashes.algorithm == "sha256":  # of pickles, which are of a Python version
        extra["python"] = facts.python
    if facts.longest_rope:
        extra["longest_rope"] = str(facts.longest_rope)
    if facts.draft_method and facts.draft is None:
        extra["draft"] = facts.draft_method
    return extra


def _layer_words(facts: EngineFacts) -> str:
    names = [layer.name for layer in facts.layers]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    return f"{names[0]} to {names[-1]} ({len(names)}, {digest})"
