"""The scheduler's side of the connector: vLLM's own objects in, orders to the workers out.

Pure: no I/O, no threads, no keys, no cache; the clock is passed in. It imports no vLLM, and is given vLLM's Request,
KVCacheBlocks, SchedulerOutput, KVConnectorOutput, KVCacheManager and BlockPool.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from objectcache.connectors.vllm.messages import Load, Orders, Report
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.scheduler.holding import BlockPool, before_reset, evict
from objectcache.connectors.vllm.scheduler.requests import KnownRequest
from objectcache.connectors.vllm.scheduler.saves import Due, Known, Saves
from objectcache.connectors.vllm.scheduler.saving_orders import Group, SavingOrders
from objectcache.connectors.vllm.scheduler.steps import FullGraphs, Uniform, batches, context
from objectcache.connectors.vllm.scheduler.tables import LiveTables, Table, Tables, ToldTables
from objectcache.connectors.vllm.scheduler.waiting import Admitted, Waiting, WaitingOptions

PATIENCE_S = 0.1
"""vLLM waits for blocks that are held for as long, rather than preempting a request for want of them."""


@dataclass(frozen=True, slots=True)
class SchedulerFacts:
    """What the scheduler's side must know of an engine.

    `ranks` all report. vLLM hashes `hash_tokens` at a time, `aligned_tokens` are what prefixes are multiples of (the
    scheduler's block size), `step_tokens` what a step computes at most. `none_hash` is what the first block's hash
    began with, known once the engine has started. `graphs` says which steps run as one CUDA graph, where requests draft
    `draft_tokens` each. `events`: KV events are published.
    """

    ranks: int
    groups: tuple[Group, ...]
    hash_tokens: int
    aligned_tokens: int
    step_tokens: int
    layerwise_safe: bool
    none_hash: Callable[[], bytes] = bytes
    graphs: FullGraphs = FullGraphs.NEVER
    draft_tokens: int = 0
    events: bool = False


class SchedulerSide:
    def __init__(
        self,
        options: VllmOptions,
        facts: SchedulerFacts,
        *,
        clock: Callable[[], float] = time.monotonic,
        new_epoch: Callable[[], int] = lambda: secrets.randbits(62),
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._options = options
        self._facts = facts
        self._clock = clock
        self._new_epoch = new_epoch
        self._epoch = options.epoch
        self._step = self._busy_step = self._reported = 0
        self._requests: dict[str, KnownRequest] = {}
        self._active: set[str] = set()
        self._none_hash = b""
        self._loads: list[Load] = []
        self._open: list[tuple[int, bytes]] = []  # loads of this step that may fail: where they begin, and that hash
        self._waiting = Waiting(
            WaitingOptions(
                facts.ranks,
                facts.aligned_tokens,
                facts.step_tokens,
                facts.layerwise_safe,
                options.admission,
                options.deadline_s,
                options.min_tokens,
            ),
            self.counters,
        )
        chunk_tokens = min(group.block_tokens for group in facts.groups)
        self._saves = Saves(chunk_tokens, decoded=options.save_decoded, min_tokens=options.store_min_tokens)
        self._orders = SavingOrders(
            facts.groups,
            facts.hash_tokens,
            facts.ranks,
            self.counters,
            events=facts.events,
        )
        never = facts.graphs is FullGraphs.NEVER
        self._uniform = None if never else Uniform(facts.graphs, facts.draft_tokens)
        self._pool: BlockPool | None = None
        self._tables: Tables | None = None

    # What vLLM binds

    def bind_kv_cache_manager(self, manager: Any) -> None:
        self._bind(manager.block_pool, LiveTables(manager))

    def bind_gpu_block_pool(self, pool: BlockPool) -> None:
        """Where vLLM tells no more than that."""
        if self._tables is None:
            self._bind(pool, ToldTables(pool))

    def _bind(self, pool: BlockPool, tables: Tables) -> None:
        self._pool, self._tables = pool, tables
        self._orders.bind(pool, live=isinstance(tables, LiveTables))
        before_reset(pool, self._orders.abandon)

    # Requests

    def on_new_request(self, request: Any) -> None:
        self._known(request)

    def get_num_new_matched_tokens(self, request: Any, have_tokens: int) -> tuple[int | None, bool]:
        """How many tokens beyond vLLM's own `have_tokens` are loaded: (None, False) while that is not known."""
        known = self._known(request)
        known.have_tokens = have_tokens
        if self._open and self._would_share(request, have_tokens):
            self.counters["shared_open_load"] += 1
            return None, False
        if not known.load or request.skip_reading_prefix_cache:
            return 0, False
        answer = self._waiting.asked(
            request.request_id,
            known.prompt,
            have_tokens,
            request.num_tokens,
            self._clock(),
            generation=request.num_preemptions,
            alone=not self._active,
        )
        return answer.tokens, answer.parked

    def update_state_after_alloc(self, request: Any, blocks: Any, external_tokens: int) -> None:
        """It has blocks; `external_tokens` of those that were announced are to be loaded into them."""
        id, known = request.request_id, self._known(request)
        self._active.add(id)
        if known.parked and request.num_computed_tokens:
            known.parked = False  # it was loaded, and now runs
            return
        admitted = self._waiting.allocated(id, external_tokens, self._step + 1)
        known.parked = admitted is not None and admitted.parked
        table: Table = blocks.blocks
        if not any(table) and self._tables is not None:  # beside another connector, which loads for it
            table = self._tables.of(id)
        if admitted is not None:
            self._load(known, table, admitted)
        stored = admitted.stop if admitted else self._orders.stored(request, table, known.have_tokens)
        self._orders.seen(id, local=known.have_tokens > 0)
        prompt_tokens = request.num_prompt_tokens
        self._saves.started(id, request.num_preemptions, prompt_tokens, stored, self._step + 1)

    def request_finished(self, request: Any) -> tuple[bool, None]:
        """vLLM may free its blocks: what is to be saved of them is held."""
        id = request.request_id
        known = self._known(request)
        del self._requests[id]
        self._waiting.finished(id)
        self._active.discard(id)
        due = self._saves.finished(id, known.now, request.num_computed_tokens, in_step=known.ended_by_a_step)
        if due is not None and known.worth_saving:
            self._save(known, due, last=True)
        if self._tables is not None:
            if self._orders.is_tainted(id) and self._pool is not None:
                for blocks in self._tables.of(id):
                    evict(blocks, self._pool)
            self._tables.forget(id)
        self._orders.ended(id)
        return False, None

    # Steps

    def build_connector_meta(self, output: Any) -> Orders:
        """The orders of the step that `output` describes."""
        self._step += 1
        counts = output.num_scheduled_tokens
        self._active = set(counts)
        if self._active:
            self._busy_step = self._step
        preempted = output.preempted_req_ids
        if preempted and self._pool is not None and any(map(self._orders.is_tainted, preempted)):
            evict(self._pool.blocks, self._pool)  # its blocks were given back, and may be found
        computing = batches(output)
        tokens = sum(counts.values())
        self._saves.scheduled(self._step, counts, computing, decoding=tokens == len(counts) and len(computing) == 1)
        if self._tables is not None:
            self._tables.scheduled(output)
        if not self._none_hash:
            self._none_hash = self._facts.none_hash()
        look_ups, drops = self._waiting.take()
        saves, abandoned = self._orders.take()
        orders = Orders(
            self._step,
            look_ups,
            tuple(self._loads),
            drops,
            saves,
            abandoned,
            idle=not self._active and self._reported >= self._busy_step,
            full_graph=self._uniform is not None and self._uniform.full(counts),
            tokens=tokens,
            context=context(counts, computing) if tokens > 1 else 0,
            epoch=self._epoch,
            none_hash=self._none_hash,
        )
        self._loads.clear()
        self._open.clear()
        return orders

    def update_connector_output(self, output: Any, report: Report | None) -> None:
        """The outputs of the step of `report` were processed. Without a report nothing is known to be clean."""
        if report is None:
            return
        self._reported = max(self._reported, report.step)
        if report.progress:
            self._waiting.told(report, self._clock())
        for attempt in report.failed_loads:
            self._failed(attempt)
        clean = not (report.failed_loads or output.invalid_block_ids)
        if not clean:
            self.counters["unclean_steps"] += 1
        # vLLM computes those anew; before 0.29 it is told of their blocks only, and nobody counts them.
        if failed := getattr(output, "failed_recving", None):
            self.counters["failed_loads"] += len(failed)
        for request in output.finished_recving or ():
            self._waiting.unparked(request)
        if self._waiting.loading_steps:
            self._waiting.loaded(report.step)
        if report.copied or report.stored:
            self._orders.told(report)
        if self._orders.unclear:
            self._orders.processed(report.step, clean=clean)
        for due in self._saves.processed(report.step, clean, self._now):
            reached = self._save(self._requests[due.request], due, last=False)
            if reached < due.stop:
                self._saves.put_off(due.request, reached)

    # The rest

    def reset_cache(self) -> bool:
        """Weights may have changed: nothing that was computed or stored before is used, or saved, from here on."""
        self._epoch = self._new_epoch()
        self._waiting.reset()
        self._orders.reset(id for id, known in self._requests.items() if known.request.num_computed_tokens)
        if self._pool is not None:
            evict(self._pool.blocks, self._pool)
        return True

    def has_pending_push_work(self) -> bool:
        """vLLM goes on stepping, so that blocks are given back and workers hear of what is dropped."""
        return self._orders.pending or self._waiting.untold

    def has_pending_block_frees(self) -> bool:
        """Blocks will be free soon: vLLM need not preempt a request."""
        return self._orders.frees(self._clock() - PATIENCE_S)

    def take_events(self) -> Iterable[Any]:
        """vLLM's BlockStored for chunks that became visible on all ranks."""
        return self._orders.take_events()

    def _known(self, request: Any) -> KnownRequest:
        known = self._requests.get(request.request_id)
        if known is None:
            known = KnownRequest.of(request, load=self._options.load, store=self._options.store)
            self._requests[request.request_id] = known
            if (known.load, known.store) != (self._options.load, self._options.store):
                self.counters["opted_out"] += 1
        return known

    def _now(self, request: str) -> Known | None:
        known = self._requests.get(request)
        return None if known is None else known.now

    def _would_share(self, request: Any, have_tokens: int) -> bool:
        """vLLM found blocks for it that are being loaded in this very step, and may turn out to be bad."""
        hashes, tokens = request.block_hashes, self._facts.hash_tokens
        for first, hash in self._open:
            block = first // tokens
            if have_tokens > first and block < len(hashes) and hashes[block] == hash:
                return True
        return False

    def _load(self, known: KnownRequest, table: Table, admitted: Admitted) -> None:
        ids = tuple(
            tuple(block.block_id for block in blocks[: -(-admitted.stop // group.block_tokens)])
            for group, blocks in zip(self._facts.groups, table, strict=True)
        )
        request = known.request
        self._loads.append(
            Load(admitted.attempt, request.request_id, admitted.first, admitted.stop, ids, admitted.parked)
        )
        self._orders.loaded(request, table, admitted.first, admitted.stop)
        if not (admitted.verified or admitted.parked):
            self._open.append((admitted.first, request.block_hashes[admitted.first // self._facts.hash_tokens]))

    def _failed(self, attempt: int) -> None:
        """A load did not come: vLLM computes it. Until it has, nobody may find its blocks, which vLLM leaves in its
        prefix cache."""
        found = self._waiting.load_of(attempt)
        if found is None:
            return
        request, load = found
        self.counters["failed_loads"] += 1
        self._saves.lost(request, load.first)
        if self._tables is not None and self._pool is not None:
            table = self._tables.of(request)
            for group, blocks in zip(self._facts.groups, table, strict=False):
                evict(blocks[load.first // group.block_tokens :], self._pool)
        if not self._facts.layerwise_safe and not load.parked:
            self._orders.poisoned()

    def _save(self, known: KnownRequest, due: Due, *, last: bool) -> int:
        if not known.store or self._tables is None:
            return due.stop
        return self._orders.save(known, due, self._tables.of(due.request), self._clock(), last=last)
