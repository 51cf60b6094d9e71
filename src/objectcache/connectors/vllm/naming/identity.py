"""What a worker has to know of the model that it holds KV of: made by `facts`, used by the workers' side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from objectcache.cache.base import PartId
from objectcache.connectors.vllm.messages import Adapter
from objectcache.keys import Namespace
from objectcache.layout import KVLayout, MatchRule


class CachedGroup(Protocol):
    """One of vLLM's KV cache groups, as this rank holds it. `index` is both vLLM's and the layout's."""

    @property
    def index(self) -> int: ...

    @property
    def layer_names(self) -> Sequence[str]:
        """vLLM's names of this rank's layers of the group: one for each layer of its shard, in the shard's order."""

    @property
    def block_tokens(self) -> int:
        """Tokens of one of its blocks, which is one chunk."""

    @property
    def key_stride(self) -> int:
        """How many of vLLM's block hashes one chunk covers."""

    @property
    def rule(self) -> MatchRule: ...


class Identity(Protocol):
    """Of one rank."""

    @property
    def layout(self) -> KVLayout:
        """That of every namespace below."""

    @property
    def groups(self) -> Sequence[CachedGroup]:
        """All of them, in order."""

    @property
    def parts(self) -> Sequence[PartId]:
        """The shards that this rank holds, at most one of each group."""

    @property
    def writes(self) -> Sequence[bool]:
        """Of each of `parts`, whether this rank is the one that stores it: others may hold the same."""

    def namespace(self, epoch: int, none_hash: bytes, adapter: Adapter | None) -> Namespace:
        """`none_hash` is what the first block's hash began with. May read files. Raises ObjectCacheError."""
