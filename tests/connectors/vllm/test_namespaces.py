from __future__ import annotations

from dataclasses import replace

import pytest

from objectcache import MatchRule, Namespace, PartId
from objectcache.connectors.vllm.messages import Adapter
from objectcache.connectors.vllm.naming.facts import EngineFacts, HashFacts, WeightsFacts
from objectcache.connectors.vllm.naming.namespaces import Identity, check_hashes, idle_reason, make_layout
from objectcache.connectors.vllm.naming.weights import Weights
from objectcache.errors import ConfigError, LayoutError
from tests.connectors.vllm.described import CONFIG, engine, full, window

SEED = b"\x11" * 32


class Named(Weights):
    """Weights by name, and adapters by their paths."""

    def __init__(self, model: str = "sha256:m", draft: str = "") -> None:
        self.names = (model, draft)

    def model(self, wait_s: float = 0.0) -> str:
        return self.names[0]

    def draft(self, wait_s: float = 0.0) -> str:
        return self.names[1]

    @staticmethod
    def adapter(adapter: Adapter | None) -> str:
        return f"sha256:{adapter.path}" if adapter else ""


def identity(facts: EngineFacts, **fields: object) -> Identity:
    return Identity(facts, Named(), **fields)  # type: ignore[arg-type]


def namespace(facts: EngineFacts, weights: Weights | None = None, **fields: object) -> Namespace:
    return Identity(facts, weights or Named(), **fields).namespace(0, SEED, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.31.0"},
        {"architecture": "MistralForCausalLM"},
        {"weights": WeightsFacts("acme/model", "", CONFIG.replace("10000", "20000"), device="cuda")},
        {"weights": WeightsFacts("acme/model", "", CONFIG, device="cpu")},
        {"dtype": "float16"},
        {"kv_dtype": "fp8"},
        {"quantization": "awq"},
        {"tensor_parallel": 2},
        {"pipeline_parallel": 2},
        {"instruction_set": "x86_64 AVX2"},
        {"hashes": HashFacts("sha256_cbor", False, 16)},
        {"hashes": HashFacts("sha256", False, 8)},
        {"python": "3.12"},
        {"backends": ("FLASHINFER",)},
        {"block_layout": "2 x bfloat16[2, 16, 8, 64] 0,2,1,3"},
        {"draft_method": "ngram"},
        {"longest_rope": 131072},
        {"groups": (full(0, 1, block_tokens=32),)},
        {"groups": (window(0, 1, index=0),)},
    ],
)
def test_whatever_changes_kv_changes_its_name(change: dict[str, object]) -> None:
    plain, changed = namespace(engine()), namespace(engine(**change))
    assert changed.digest != plain.digest
    assert plain.differences(changed)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.32.1"},
        {"weights": WeightsFacts("another/path", "/elsewhere", CONFIG, device="cuda")},
        {"async_scheduling": True},
        {"prefix_caching": False},
        {"cudagraph_mode": "FULL"},
        {"num_blocks": 7},
        {"max_step_tokens": 7},
        {"saves": False},
    ],
)
def test_what_does_not_change_kv_does_not(change: dict[str, object]) -> None:
    assert namespace(engine(**change)).digest == namespace(engine()).digest


def test_python_does_not_count_where_hashes_are_of_no_pickles() -> None:
    cbor = HashFacts("sha256_cbor", False, 16)
    assert namespace(engine(hashes=cbor)).digest == namespace(engine(hashes=cbor, python="3.12")).digest


def test_weights_adapters_seeds_epochs_and_salts_count() -> None:
    named = identity(engine())
    plain = named.namespace(0, SEED, None)
    others = [
        namespace(engine(), Named("sha256:other")),
        namespace(engine(), Named(draft="sha256:draft")),
        namespace(engine(), salt="tenant"),
        named.namespace(1, SEED, None),
        named.namespace(0, b"\x22" * 32, None),
        named.namespace(0, SEED, Adapter("a", "/a")),
        named.namespace(0, SEED, Adapter("a", "/b")),
    ]
    assert len({plain.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert plain.hash_seed == SEED.hex()
    assert "tenant" not in str(others[2].to_dict())


def test_namespaces_are_made_once_and_survive_json() -> None:
    named = identity(engine())
    made = named.namespace(3, SEED, None)
    assert named.namespace(3, SEED, None) is made
    assert Namespace.from_json(made.to_json()) == made
    for epoch in range(100):
        named.namespace(epoch, SEED, None)
    assert named.namespace(3, SEED, None) == made


def test_without_a_seed_nothing_is_named() -> None:
    with pytest.raises(ConfigError):
        identity(engine()).namespace(0, b"", None)


def test_tensor_ranks_hold_a_shard_each() -> None:
    groups = (full(0, 1, tensor_shards=4),)
    found = [identity(engine(tensor_parallel=4, tensor_rank=rank, groups=groups)) for rank in range(4)]
    assert [one.parts for one in found] == [(PartId(0, rank),) for rank in range(4)]
    assert all(one.saves for one in found)
    assert len({one.namespace(0, SEED, None).digest for one in found}) == 1


def test_copies_have_one_writer() -> None:
    groups = (full(0, tensor_shards=2), full(1, index=1, tensor_shards=1))
    found = [identity(engine(tensor_parallel=4, tensor_rank=rank, groups=groups)) for rank in range(4)]
    assert [one.parts for one in found] == [
        (PartId(0, 0), PartId(1, 0)),
        (PartId(0, 0), PartId(1, 0)),
        (PartId(0, 1), PartId(1, 0)),
        (PartId(0, 1), PartId(1, 0)),
    ]
    assert [one.writes for one in found] == [(True, True), (False, False), (True, False), (False, False)]
    assert [one.saves for one in found] == [True, False, True, False]


def test_a_consumer_saves_nothing() -> None:
    assert not identity(engine(saves=False)).saves


def test_stages_have_namespaces_of_their_own() -> None:
    stages = [
        identity(engine(pipeline_parallel=2, stage=stage, tensor_parallel=2, tensor_rank=1, groups=(group,)))
        for stage, group in enumerate((full(0, 1, tensor_shards=2), full(2, 3, tensor_shards=2)))
    ]
    assert [one.parts for one in stages] == [(PartId(0, 1),)] * 2
    assert all(one.saves for one in stages)
    assert stages[0].namespace(0, SEED, None).digest != stages[1].namespace(0, SEED, None).digest


def test_layers_are_numbered_in_the_order_that_they_compute_in() -> None:
    facts = engine(
        groups=(window(0, 2, index=0), full(1, 3, index=1, block_tokens=32)), hashes=HashFacts("sha256", False, 8)
    )
    layout = make_layout(facts)
    assert [shard.layers for group in layout.groups for shard in group.shards] == [(0, 2), (1, 3)]
    assert [group.rule for group in layout.groups] == [MatchRule.WINDOW, MatchRule.PREFIX]
    assert [group.window_tokens for group in layout.groups] == [63, 0]
    named = identity(facts)
    assert [(group.index, group.key_stride, group.block_tokens) for group in named.groups] == [(0, 2, 16), (1, 4, 32)]
    assert named.groups[1].layer_names == ("model.layers.1.self_attn.attn", "model.layers.3.self_attn.attn")


@pytest.mark.parametrize(
    "change",
    [
        {"problems": ("context parallelism is not supported",)},
        {"groups": ()},
        {"groups": (full(0), full(index=1, layers=()))},
        {
            "groups": (full(0, block_tokens=24), full(1, index=1, block_tokens=16)),
            "hashes": HashFacts("sha256", False, 8),
        },
        {"hashes": HashFacts("sha256", False, 32)},
    ],
)
def test_what_cannot_be_named_is_left_to_the_engine(change: dict[str, object]) -> None:
    facts = engine(**change)
    assert idle_reason(facts)
    with pytest.raises(LayoutError):
        identity(facts)
    assert idle_reason(engine()) == ""


@pytest.mark.parametrize(
    ("hashes", "said"),
    [
        (HashFacts("sha256", True, 16), "PYTHONHASHSEED"),
        (HashFacts("xxhash", False, 16), "--prefix-caching-hash-algo sha256"),
        (HashFacts("xxhash_cbor", True, 16), "--prefix-caching-hash-algo sha256"),
    ],
)
def test_hashes_that_name_nothing_are_an_error_that_says_what_to_set(hashes: HashFacts, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_hashes(engine(hashes=hashes))
    with pytest.raises(ConfigError, match=said):
        identity(replace(engine(), hashes=hashes))
    check_hashes(engine())
