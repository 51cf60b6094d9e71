"""vLLM's KV events of chunks that became visible in the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

MEDIUM = "objectcache"


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks of `block_tokens` that vLLM's hashes name, one after another, and what they follow."""

    hashes: Sequence[bytes] = field(repr=False)
    parent: bytes | None
    tokens: Sequence[int] = field(repr=False)
    block_tokens: int
    adapter: tuple[int, str] | None

    @classmethod
    def of(cls, request: Any, first: int, stop: int, block_tokens: int) -> Stored:
        """Tokens [first, stop) of vLLM's Request."""
        hashes, begin = request.block_hashes, first // block_tokens
        lora = request.lora_request
        return cls(
            tuple(hashes[begin : stop // block_tokens]),
            hashes[begin - 1] if begin else None,
            list(request.all_token_ids[first:stop]),
            block_tokens,
            None if lora is None else (lora.lora_int_id, lora.lora_name),
        )


def stored_events(stored: Iterable[Stored]) -> list[Any]:
    """As vLLM's BlockStored, with this medium."""
    from vllm.distributed.kv_events import BlockStored
    from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

    return [
        BlockStored(
            block_hashes=[maybe_convert_block_hash(hash) for hash in one.hashes],
            parent_block_hash=None if one.parent is None else maybe_convert_block_hash(one.parent),
            token_ids=list(one.tokens),
            block_size=one.block_tokens,
            lora_id=one.adapter[0] if one.adapter else None,
            medium=MEDIUM,
            lora_name=one.adapter[1] if one.adapter else None,
        )
        for one in stored
    ]
