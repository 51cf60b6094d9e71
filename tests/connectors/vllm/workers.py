"""Workers without vLLM: paged caches as it has them, and the order in which it calls."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from objectcache.cache import KVCache, PartId
from objectcache.connectors.vllm.messages import (
    HASH_BYTES,
    Adapter,
    Load,
    LookUp,
    Orders,
    Progress,
    Prompt,
    Report,
    Save,
    SavePart,
    Stage,
)
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.worker.side import WorkerSide
from objectcache.keys import Namespace
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule

BLOCK_TOKENS = 16
NUM_BLOCKS = 64
LAYERS = 4
PATIENCE_S = 20.0

CACHES: dict[str, Callable[[], torch.Tensor]] = {
    "cpu": lambda: torch.zeros(NUM_BLOCKS, 2, BLOCK_TOKENS, 16),
    "flash": lambda: torch.zeros(2, NUM_BLOCKS, BLOCK_TOKENS, 2, 8, dtype=torch.bfloat16),
    "flash, heads first": lambda: torch.zeros(2, NUM_BLOCKS, 2, BLOCK_TOKENS, 8).permute(0, 1, 3, 2, 4),
    "blocks first": lambda: torch.zeros(NUM_BLOCKS, 2, BLOCK_TOKENS, 2, 8, dtype=torch.float8_e4m3fn),
    "latent": lambda: torch.zeros(NUM_BLOCKS, BLOCK_TOKENS, 36, dtype=torch.bfloat16),
}


@dataclass(frozen=True)
class Group:
    index: int
    layer_names: tuple[str, ...]
    block_tokens: int = BLOCK_TOKENS
    key_stride: int = 1
    rule: MatchRule = MatchRule.PREFIX


@dataclass(frozen=True)
class RankIdentity:
    layout: KVLayout
    groups: tuple[Group, ...]
    parts: tuple[PartId, ...]
    saves: bool = True
    model: str = "weights"

    @property
    def writes(self) -> tuple[bool, ...]:
        return (self.saves,) * len(self.parts)

    def namespace(self, epoch: int, none_hash: bytes, adapter: Adapter | None) -> Namespace:
        return Namespace(self.model, self.layout, "opaque", adapter=adapter.name if adapter else "", epoch=epoch)


def one_group(slice_bytes: int, *, shards: int = 1, rank: int = 0, saves: bool = True) -> RankIdentity:
    """Full attention, `LAYERS` layers."""
    layers = tuple(range(LAYERS))
    held = tuple(KVShard(i, layers, (slice_bytes,) * LAYERS, (i,)) for i in range(shards))
    layout = KVLayout((KVGroup("full", BLOCK_TOKENS, held),))
    group = Group(0, tuple(f"layers.{layer}" for layer in layers))
    return RankIdentity(layout, (group,), (PartId(0, rank),), saves)


def with_window(slice_bytes: int, window_tokens: int) -> RankIdentity:
    """Layers 0 and 2 see everything, 1 and 3 a window."""
    full = KVGroup("full", BLOCK_TOKENS, (KVShard(0, (0, 2), (slice_bytes,) * 2),))
    window = KVGroup("window", BLOCK_TOKENS, (KVShard(0, (1, 3), (slice_bytes,) * 2),), MatchRule.WINDOW, window_tokens)
    groups = (
        Group(0, ("layers.0", "layers.2")),
        Group(1, ("layers.1", "layers.3"), rule=MatchRule.WINDOW),
    )
    return RankIdentity(KVLayout((full, window)), groups, (PartId(0, 0), PartId(1, 0)))


def prompt_of(blocks: int, seed: int = 0, shared: int = 0) -> Prompt:
    """Of `blocks` full blocks, the first `shared` of which are those of seed 0."""
    hashes = b""
    parent = b""
    for block in range(blocks):
        parent = hashlib.sha256(parent + bytes([0 if block < shared else seed, block])).digest()
        hashes += parent
    assert len(hashes) == blocks * HASH_BYTES
    return Prompt(hashes)


@dataclass
class Worker:
    """One rank: `step` is an engine step, `run` as many as it takes."""

    identity: RankIdentity
    make: Callable[[], torch.Tensor]
    cache: KVCache | None = None
    options: VllmOptions = field(default_factory=lambda: VllmOptions("memory://", advise=False, store_min_tokens=0))
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        self.names = sorted(name for group in self.identity.groups for name in group.layer_names)
        self.kv = {name: self.make() for name in self.names}
        self.side = WorkerSide(self.options, self.identity, self.rank, self.ranks, cache=self.cache)
        self.side.register(self.kv, NUM_BLOCKS)
        self.steps = itertools.count(1)
        self.attempts = itertools.count(1)
        self.jobs = itertools.count(1)
        self.progress: dict[int, list[Progress]] = {}
        self.copied: list[int] = []
        self.stored: list[int] = []
        self.failed: set[int] = set()
        self.failed_blocks: set[int] = set()
        self.finished: set[str] = set()
        self.failed_requests: set[str] = set()
        self.waited_s: dict[str, float] = {}

    # -- what is in the caches --------------------------------------------------------------------

    def block(self, name: str, number: int) -> bytes:
        cache = self.kv[name]
        dim = next(dim for dim, size in enumerate(cache.shape) if size == NUM_BLOCKS)
        return cache.select(dim, number).contiguous().view(torch.uint8).numpy().tobytes()

    def fill(self, seed: int) -> None:
        """Everything with noise."""
        noise = np.random.default_rng(seed)
        for cache in self.kv.values():
            data = torch.from_numpy(noise.integers(0, 256, cache.numel() * cache.element_size(), dtype=np.uint8))
            cache.copy_(data.view(cache.dtype).view(cache.shape))

    def everything(self) -> dict[tuple[str, int], bytes]:
        return {(name, block): self.block(name, block) for name in self.names for block in range(NUM_BLOCKS)}

    # -- steps ------------------------------------------------------------------------------------

    def step(
        self, orders: Orders | None = None, *, compute_s: float = 0.0, wait_all: bool = False, ask: bool = True
    ) -> Report | None:
        """In vLLM's order of calls."""
        orders = replace(orders or Orders(0, idle=True), step=next(self.steps))
        self.side.bind(orders)
        self.side.start_loads(wait_all=wait_all)
        if not orders.idle:
            for name in self.names if ask else ():
                begin_s = time.perf_counter()
                self.side.wait(name)
                self.waited_s[name] = time.perf_counter() - begin_s
                time.sleep(compute_s)
            self.side.end_step()
        self.finished |= self.side.finished_loads()
        self.failed_requests |= self.side.failed_loads()
        self.failed_blocks |= self.side.failed_blocks()
        report = self.side.report()
        if report is not None:
            for attempt, ranks in report.progress.items():
                self.progress.setdefault(attempt, []).extend(ranks.values())
            self.copied += report.copied
            self.stored += report.stored
            self.failed |= report.failed_loads
        return report

    def run(self, until: Callable[[], object], within_s: float = PATIENCE_S) -> None:
        """Idle steps."""
        end_s = time.monotonic() + within_s
        while not until():
            assert time.monotonic() < end_s, f"not within {within_s:g} s; told: {self.progress}"
            self.step()

    def stage(self, attempt: int) -> Stage | None:
        told = self.progress.get(attempt)
        return told[-1].stage if told else None

    def tokens(self, attempt: int) -> int:
        return self.progress[attempt][-1].tokens

    # -- orders -----------------------------------------------------------------------------------

    def look_up(self, prompt: Prompt, *, have: int = 0, tokens: int = 0, seconds: float = 30.0) -> int:
        """A request of the prompt and one more token, or `tokens`. Returns the attempt."""
        number = next(self.attempts)
        whole = tokens or prompt.blocks * BLOCK_TOKENS + 1
        order = LookUp(number, f"request-{number}", prompt, have, whole, 8192, seconds)
        self.step(Orders(0, look_ups=(order,), idle=True))
        return number

    def find(self, prompt: Prompt, *, have: int = 0, tokens: int = 0) -> int:
        """As `look_up`; returns when it is staged, or will not be."""
        number = self.look_up(prompt, have=have, tokens=tokens)
        self.run(lambda: self.stage(number) in (Stage.STAGED, Stage.MISSED, Stage.FAILED))
        return number

    def save(
        self, prompt: Prompt, tables: Sequence[Sequence[int]], *, first: int = 0, wait: bool = True, ended: bool = True
    ) -> int:
        """All blocks of the prompt from `first` on."""
        number = next(self.jobs)
        parts = tuple(SavePart(group, first, tuple(table[first : prompt.blocks])) for group, table in enumerate(tables))
        self.step(Orders(0, saves=(Save(number, f"saved-{number}", prompt, parts, ended),), tokens=1))
        if wait:
            self.run(lambda: number in self.copied and number in self.stored)
        return number

    def load(
        self, attempt: int, first: int, stop: int, tables: Sequence[Sequence[int]], *, parked: bool = False
    ) -> Load:
        ids = tuple(tuple(table) for table in tables)
        return Load(attempt, f"request-{attempt}", first, stop, ids, parked)

    def close(self) -> None:
        self.side.close(5.0)
