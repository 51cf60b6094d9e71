"""References on blocks of vLLM's pool, taken while workers copy from them, and given back when all ranks have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class BlockPool(Protocol):
    """What is used of vLLM's."""

    num_gpu_blocks: int

    @property
    def blocks(self) -> Sequence[Any]: ...

    def get_num_free_blocks(self) -> int: ...
    def touch(self, blocks: Sequence[Any]) -> None: ...
    def free_blocks(self, ordered_blocks: Iterable[Any]) -> None: ...
    def evict_blocks(self, block_ids: set[int]) -> None: ...


def evict(blocks: Iterable[Any], default: BlockPool) -> None:
    """Nobody finds these blocks by their hashes any more; who uses them keeps them."""
    for pool, found in _by_pool([block for block in blocks if not block.is_null], default):
        pool.evict_blocks({block.block_id for block in found})


def _by_pool(blocks: Sequence[Any], default: BlockPool) -> list[tuple[BlockPool, list[Any]]]:
    """Groups may have pools of their own, from vLLM 0.32 on."""
    pools: dict[int, tuple[BlockPool, list[Any]]] = {}
    for block in blocks:
        pool = getattr(block, "pool", None) or default
        pools.setdefault(id(pool), (pool, []))[1].append(block)
    return list(pools.values())


def before_reset(pool: Any, give_back: Callable[[], None]) -> None:
    """Have `give_back` called before `pool` resets its prefix cache, which it refuses while blocks are held: engines
    whose weights change would go on with what they had. vLLM has no hook for it, so its method is replaced."""
    reset = pool.reset_prefix_cache

    def resetting() -> bool:
        give_back()
        done: bool = reset()
        return done

    pool.reset_prefix_cache = resetting


@dataclass(slots=True)
class _Held:
    blocks: list[Any]
    since: float
    waits_for: set[int] = field(default_factory=set)


class Holds:
    """At most `share` of the pool is held, and by at most `jobs` jobs."""

    def __init__(self, pool: BlockPool, ranks: int, *, share: float = 0.25, jobs: int = 256) -> None:
        self._pool = pool
        self._ranks = ranks
        self._limit = max(1, int(pool.num_gpu_blocks * share))
        self._jobs = jobs
        self._held: dict[int, _Held] = {}
        self.blocks = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def room(self) -> int:
        """So many blocks more may be held."""
        return self._limit - self.blocks if len(self._held) < self._jobs else 0

    def frees(self, since: float) -> bool:
        """Blocks that nobody else has any more are free soon. Those held from before `since` are not counted on."""
        return any(block.ref_cnt == 1 for held in self._held.values() if held.since >= since for block in held.blocks)

    def take(self, job: int, blocks: Sequence[Any], now: float) -> None:
        """Hold blocks for `job`, so that neither their request's end nor preemption nor a window that moves on frees
        them. There must be room for them."""
        for pool, found in _by_pool(blocks, self._pool):
            pool.touch(found)
        self._held[job] = _Held(list(blocks), now, set(range(self._ranks)))
        self.blocks += len(blocks)

    def copied(self, job: int, ranks: Iterable[int]) -> None:
        """These ranks do not read the job's blocks any more."""
        held = self._held.get(job)
        if held is not None:
            held.waits_for.difference_update(ranks)
            if not held.waits_for:
                self.give_back(job)

    @property
    def alone(self) -> bool:
        """Whether nobody else uses a block of the pool."""
        counts = Counter(block.block_id for held in self._held.values() for block in held.blocks)
        used = self._pool.num_gpu_blocks - 1 - self._pool.get_num_free_blocks()  # but for the null block
        return used == len(counts) and all(self._pool.blocks[id].ref_cnt == count for id, count in counts.items())

    def give_all_back(self) -> tuple[int, ...]:
        """Whether or not somebody reads them; the jobs that held them."""
        jobs = tuple(self._held)
        for job in jobs:
            self.give_back(job)
        return jobs

    def give_back(self, job: int) -> None:
        """Nobody reads its blocks."""
        held = self._held.pop(job, None)
        if held is None:
            return
        self.blocks -= len(held.blocks)
        for pool, blocks in _by_pool(held.blocks, self._pool):
            pool.free_blocks(reversed(blocks))  # tails first, as vLLM does: they are reused first
