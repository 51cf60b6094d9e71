"""Which blocks a request has, in each KV cache group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from objectcache.connectors.vllm.scheduler.holding import BlockPool

Table = tuple[Sequence[Any], ...]
"""vLLM's block objects of one request, by group, from its first token on."""


class Tables(Protocol):
    def of(self, request: str) -> Table: ...
    def scheduled(self, output: Any) -> None: ...
    def forget(self, request: str) -> None: ...


class LiveTables:
    """vLLM's own. Needs its cache manager, which it tells connectors of from 0.29 on."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def of(self, request: str) -> Table:
        blocks: Table = self._manager.get_blocks(request).blocks
        return blocks

    def scheduled(self, output: Any) -> None:
        """Nothing to learn."""

    def forget(self, request: str) -> None:
        """Nothing was kept."""


class ToldTables:
    """Put together from what each step tells the workers. Blocks that a window has passed are not taken out of them, so
    that only those of groups without windows may be used."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._ids: dict[str, tuple[list[int], ...]] = {}

    def of(self, request: str) -> Table:
        return tuple([self._pool.blocks[id] for id in ids] for ids in self._ids.get(request, ()))

    def scheduled(self, output: Any) -> None:
        for new in output.scheduled_new_reqs:
            self._ids[new.req_id] = tuple(list(ids) for ids in new.block_ids)
        cached = output.scheduled_cached_reqs
        for request, added in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if added is None:
                continue
            known = self._ids.get(request)
            if known is None or request in cached.resumed_req_ids:
                self._ids[request] = tuple(list(ids) for ids in added)
                continue
            for ids, more in zip(known, added, strict=True):
                ids.extend(more)

    def forget(self, request: str) -> None:
        self._ids.pop(request, None)
