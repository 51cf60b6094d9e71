"""Orders to save: which blocks they name, who holds them, and which chunks became visible."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from objectcache.connectors.vllm.messages import Report, Save, SavePart
from objectcache.connectors.vllm.scheduler.events import Stored, stored_events
from objectcache.connectors.vllm.scheduler.holding import BlockPool, Holds
from objectcache.connectors.vllm.scheduler.requests import KnownRequest
from objectcache.connectors.vllm.scheduler.saves import RUN_CHUNKS, Due
from objectcache.connectors.vllm.scheduler.tables import Table

UNSEEN_JOBS = 1024
"""So many jobs may be on their way into the store, and their events be waited for."""


@dataclass(frozen=True, slots=True)
class Group:
    """A KV cache group of vLLM's: the tokens of its blocks, and whether it frees those that its window has passed."""

    block_tokens: int
    windowed: bool = False


@dataclass(slots=True)
class _Pending:
    save: Save
    after_step: int | None


@dataclass(slots=True)
class _Unseen:
    """A job that is not visible yet, on all ranks but these. `blocks` are of the first group, with their hashes, and
    `before` is the one before them, if there is any."""

    before: tuple[int, bytes] | None
    blocks: tuple[tuple[int, bytes], ...]
    stored: Stored | None = None
    ranks: set[int] = field(default_factory=set)


class SavingOrders:
    def __init__(
        self,
        groups: Sequence[Group],
        hash_tokens: int,
        ranks: int,
        counters: Counter[str],
        *,
        events: bool,
    ) -> None:
        self._groups = groups
        self._hash_tokens = hash_tokens
        self._ranks = ranks
        self._counters = counters
        self._events = events
        self._jobs = itertools.count(1)
        self._holds: Holds | None = None
        self._allowed = True
        self._poisoned = False
        self._tainted: set[str] = set()
        self._pending: list[_Pending] = []
        self._ready: list[Save] = []
        self._abandoned: list[int] = []
        self._stored_at: dict[int, bytes] = {}  # by block of the first group: the hash of what was stored from it
        self._unseen: OrderedDict[int, _Unseen] = OrderedDict()
        self._visible: list[Stored] = []

    def bind(self, pool: BlockPool, *, live: bool) -> None:
        """`live`: tables are vLLM's own, so that blocks which a window has passed are not in them."""
        self._holds = Holds(pool, self._ranks)
        self._allowed = live or not any(group.windowed for group in self._groups)

    # What is stored already

    def stored(self, request: Any, table: Table, have_tokens: int) -> int:
        """Of the first `have_tokens`, which vLLM had: tokens up to the last block that is stored."""
        tokens = self._groups[0].block_tokens
        blocks = table[0] if table else ()
        for index in range(min(have_tokens // tokens, len(blocks)) - 1, -1, -1):
            if self._stored_at.get(blocks[index].block_id) == self._hash(request, index):
                return (index + 1) * tokens
        return 0

    def loaded(self, request: Any, table: Table, first: int, stop: int) -> None:
        """Tokens [first, stop) come from the store."""
        self._stored_at.update(self._named(request, table, first, stop))

    def _named(self, request: Any, table: Table, first: int, stop: int) -> tuple[tuple[int, bytes], ...]:
        """Blocks of the first group, with the hashes of what is in them."""
        tokens = self._groups[0].block_tokens
        found = ((table[0][index], index) for index in range(first // tokens, stop // tokens))
        return tuple((block.block_id, self._hash(request, index)) for block, index in found if not block.is_null)

    def _is_stored(self, block: tuple[int, bytes]) -> bool:
        return self._stored_at.get(block[0]) == block[1]

    def _hash(self, request: Any, index: int) -> bytes:
        stride = self._groups[0].block_tokens // self._hash_tokens
        hash: bytes = request.block_hashes[(index + 1) * stride - 1]
        return hash

    # What must not be saved

    def seen(self, request: str, *, local: bool) -> None:
        """A request got its blocks, `local` ones that others had computed among them."""
        if local and self._tainted:
            self._tainted.add(request)

    def is_tainted(self, request: str) -> bool:
        """What it computes follows from what a reset made worthless."""
        return request in self._tainted

    def ended(self, request: str) -> None:
        self._tainted.discard(request)

    def poisoned(self) -> None:
        """A load failed where vLLM does not recover: what is computed from here on may follow from it."""
        self._poisoned = True
        self._counters["saving_stopped"] += 1
        self._drop("poisoned")

    def reset(self, requests: Iterable[str]) -> None:
        """What these requests, and those that find their blocks, compute is of the past."""
        self._tainted.update(requests)
        self._poisoned = False
        self._drop("reset")
        self._stored_at.clear()
        self._unseen.clear()

    def abandon(self) -> None:
        """Give all blocks back, also those that are being copied: workers store nothing of such a job that is not
        copied when they hear of it, which is before any of its blocks is written. Nothing is given back where others
        use blocks, too, so that the reset is refused all the same."""
        if self._holds is not None and self._holds.alone:
            self._drop("reset")
            for job in self._holds.give_all_back():
                self._abandoned.append(job)
                self._unseen.pop(job, None)

    def take_abandoned(self) -> tuple[int, ...]:
        """Jobs that the workers do not know to be abandoned."""
        abandoned = tuple(self._abandoned)
        self._abandoned.clear()
        return abandoned

    def _drop(self, reason: str) -> None:
        for save in (*self._ready, *(one.save for one in self._pending)):
            self._give_back(save.job, reason)
        self._ready.clear()
        self._pending.clear()

    # Orders

    def save(self, known: KnownRequest, due: Due, table: Table, now: float, *, last: bool) -> int:
        """Order it, now or once the step that it waits for is known to be clean. Returns up to which token it was
        taken, or is given up: the rest may be ordered later, unless this was the request's last."""
        if self._poisoned or not self._allowed or self._holds is None or due.request in self._tainted:
            self._counters["not_saved"] += 1
            return due.stop
        stop = self._fitting(due, self._holds.room, last=last)
        if stop < due.stop:
            self._counters["dropped:held" if last else "put_off"] += 1
        parts: list[SavePart] = []
        held: list[Any] = []
        for index, (group, blocks) in enumerate(zip(self._groups, table, strict=False)):
            begin, end = due.first // group.block_tokens, stop // group.block_tokens
            for at, run in _runs(blocks[begin:end]):
                parts.append(SavePart(index, begin + at, tuple(block.block_id for block in run)))
                held += run
        if not parts:
            return stop
        job = next(self._jobs)
        self._holds.take(job, held, now)
        request, ended = known.request, due.ended and (last or stop == due.stop)
        save = Save(job, due.request, known.prompt(stop // self._hash_tokens), tuple(parts), ended)
        tokens = self._groups[0].block_tokens
        before = self._named(request, table, max(0, due.first - tokens), due.first)
        self._unseen[job] = _Unseen(
            before[0] if before else None,
            self._named(request, table, due.first, stop),
            Stored.of(request, due.first, stop, self._hash_tokens) if self._events else None,
        )
        if len(self._unseen) > UNSEEN_JOBS:
            self._unseen.popitem(last=False)
        if due.after_step is None:
            self._ready.append(save)
        else:
            self._pending.append(_Pending(save, due.after_step))
        return stop

    def _fitting(self, due: Due, room: int, *, last: bool) -> int:
        """As many of its tokens as there is room for: a run at least, while more is to come."""
        if room >= sum(-(-(due.stop - due.first) // group.block_tokens) + 1 for group in self._groups):
            return due.stop
        largest = max(group.block_tokens for group in self._groups)
        share = sum(largest // group.block_tokens for group in self._groups)
        stop = (due.first + max(0, room // share - 1) * largest) // largest * largest
        least = due.first if last else due.first + RUN_CHUNKS * min(group.block_tokens for group in self._groups) - 1
        return min(stop, due.stop) if stop > least else due.first

    def processed(self, step: int, *, clean: bool) -> None:
        """Saves that wait for `step` go, or not. What waits for an earlier one was never said to be clean."""
        waiting: list[_Pending] = []
        for one in self._pending:
            if one.after_step is None or one.after_step > step:
                waiting.append(one)
            elif clean and one.after_step == step:
                self._ready.append(one.save)
            else:
                self._give_back(one.save.job, "unclean")
        self._pending = waiting

    def take(self) -> tuple[Save, ...]:
        """Orders that the workers do not have."""
        saves = tuple(self._ready)
        self._ready.clear()
        self._counters["save_jobs"] += len(saves)
        return saves

    def told(self, report: Report) -> None:
        if self._holds is not None:
            for job, ranks in report.copied.items():
                self._holds.copied(job, ranks)
        for job, ranks in report.stored.items():
            found = self._unseen.get(job)
            if found is not None:
                found.ranks.update(ranks)
                if len(found.ranks) >= self._ranks:
                    self._visibly(self._unseen.pop(job))

    def _visibly(self, unseen: _Unseen) -> None:
        """What follows a gap is not taken as stored: it is offered again, from the gap on."""
        if unseen.before is None or self._is_stored(unseen.before):
            self._stored_at.update(unseen.blocks)
        if unseen.stored is not None:
            self._visible.append(unseen.stored)

    def take_events(self) -> Iterable[Any]:
        visible, self._visible = self._visible, []
        return stored_events(visible) if visible else ()

    @property
    def pending(self) -> bool:
        """Blocks are held, or workers do not know that they are not any more."""
        return bool(self._holds) or bool(self._abandoned)

    def frees(self, since: float) -> bool:
        return self._holds is not None and self._holds.frees(since)

    def _give_back(self, job: int, reason: str) -> None:
        self._counters[f"dropped:{reason}"] += 1
        self._unseen.pop(job, None)
        if self._holds is not None:
            self._holds.give_back(job)


def _runs(blocks: Sequence[Any]) -> Iterable[tuple[int, list[Any]]]:
    """Runs of blocks between null blocks, and where they begin."""
    run: list[Any] = []
    for index, block in enumerate(blocks):
        if not block.is_null:
            run.append(block)
        elif run:
            yield index - len(run), run
            run = []
    if run:
        yield len(blocks) - len(run), run
