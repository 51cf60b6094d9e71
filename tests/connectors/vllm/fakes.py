"""vLLM's objects as far as the scheduler's side looks at them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

BLOCK = 16


@dataclass
class Status:
    name: str = "RUNNING"


@dataclass
class Request:
    request_id: str
    num_prompt_tokens: int
    num_computed_tokens: int = 0
    num_preemptions: int = 0
    skip_reading_prefix_cache: bool = False
    kv_transfer_params: Any = None
    lora_request: Any = None
    status: Status = field(default_factory=Status)
    all_token_ids: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.all_token_ids = list(range(self.num_prompt_tokens))
        self.hash()

    @property
    def num_tokens(self) -> int:
        return len(self.all_token_ids)

    def sampled(self, tokens: int = 1) -> None:
        self.all_token_ids += [7] * tokens
        self.hash()

    def hash(self) -> None:
        for block in range(len(self.block_hashes), self.num_tokens // BLOCK):
            self.block_hashes.append(block.to_bytes(32, "little"))


@dataclass
class Block:
    block_id: int
    is_null: bool = False
    ref_cnt: int = 0


class Pool:
    def __init__(self, blocks: int) -> None:
        self.num_gpu_blocks = blocks
        self.blocks = [Block(id, is_null=id == 0) for id in range(blocks)]
        self.evicted: set[int] = set()

    def get_num_free_blocks(self) -> int:
        return self.num_gpu_blocks - 1 - len(self.held)

    def touch(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            block.ref_cnt += 1

    def free_blocks(self, ordered_blocks: Iterable[Block]) -> None:
        for block in ordered_blocks:
            block.ref_cnt -= 1

    def evict_blocks(self, block_ids: set[int]) -> None:
        self.evicted |= block_ids

    def reset_prefix_cache(self) -> bool:
        return not self.held

    @property
    def held(self) -> list[int]:
        return [block.block_id for block in self.blocks if block.ref_cnt]


@dataclass
class Blocks:
    """KVCacheBlocks."""

    blocks: tuple[list[Block], ...]


class Manager:
    """KVCacheManager."""

    def __init__(self, pool: Pool) -> None:
        self.block_pool = pool
        self.tables: dict[str, tuple[list[Block], ...]] = {}

    def get_blocks(self, request: str) -> Blocks:
        return Blocks(self.tables.get(request, ()))

    def give(self, request: str, *ids: Sequence[int]) -> Blocks:
        self.tables[request] = tuple([self.block_pool.blocks[id] for id in group] for group in ids)
        return self.get_blocks(request)


@dataclass
class New:
    req_id: str
    num_computed_tokens: int
    block_ids: tuple[list[int], ...] = ()


@dataclass
class Cached:
    req_ids: list[str] = field(default_factory=list)
    num_computed_tokens: list[int] = field(default_factory=list)
    new_block_ids: list[Any] = field(default_factory=list)
    resumed_req_ids: set[str] = field(default_factory=set)


@dataclass
class Scheduled:
    """SchedulerOutput."""

    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    scheduled_new_reqs: list[New] = field(default_factory=list)
    scheduled_cached_reqs: Cached = field(default_factory=Cached)
    preempted_req_ids: set[str] | None = None


@dataclass
class Output:
    """KVConnectorOutput."""

    invalid_block_ids: set[int] = field(default_factory=set)
    finished_recving: set[str] | None = None
