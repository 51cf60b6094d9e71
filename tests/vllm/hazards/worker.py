"""One rank as the scheduler sees it: it obeys orders as the real one does, in scripted time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from objectcache.connectors.vllm.messages import HASH_BYTES, Load, LookUp, Orders, Progress, Report, Save, Stage
from tests.vllm.hazards.cache import BAD, PagedCache, Tags
from tests.vllm.hazards.engine import BLOCK, WINDOW, Setting
from tests.vllm.hazards.script import Draws

Store = dict[tuple[int, int, int, bytes], Tags]
"""By epoch, rank, group and hash."""


@dataclass
class Ran:
    """A step on one rank. `right`: requests all of whose reads were."""

    right: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    invalid: set[int] = field(default_factory=set)
    report: Report = field(default_factory=lambda: Report(0))


@dataclass
class _Try:
    look_up: LookUp
    found: dict[tuple[int, int], Tags]
    tokens: int
    known_at: int
    staged_at: int
    fails: bool
    told: Progress | None = None
    load: Load | None = None
    loaded_at: int = 0
    dropped: bool = False


@dataclass
class _Copy:
    save: Save
    epoch: int
    weights: int
    at: int


class Rank:
    """`expected` says what the first tokens of a request hold, `token_at` what a position is fed."""

    def __init__(self, setting: Setting, rank: int, store: Store, draws: Draws, counts: Counter[str]) -> None:
        self.setting = setting
        self.rank = rank
        self.store = store
        self.draws = draws
        self.counts = counts
        self.cache = PagedCache(BLOCK)
        self.tick = 0
        self.tables: dict[str, tuple[list[int], ...]] = {}
        self.tries: dict[int, _Try] = {}
        self.copies: list[_Copy] = []
        self.settling: list[tuple[int, int]] = []

    def run(
        self,
        output: Any,
        orders: Orders,
        weights: int,
        token_at: Callable[[str, int], int],
        expected: Callable[[str, int, int], Sequence[int]],
    ) -> Ran:
        """One step: orders, loads, what is computed, what is new."""
        self.tick += 1
        self._take(orders, weights)
        self._check_copies(expected)
        ran = Ran()
        failed = self._load(orders.loads, ran)
        self._remember(output)
        for request, before, count in _batch(output):
            if self._compute(request, before, count, weights, token_at):
                ran.right.add(request)
        self._check_copies(expected)
        failed |= self._park(ran)
        ran.report = self._report(orders.step, failed, expected)
        return ran

    @property
    def busy(self) -> bool:
        return bool(self.copies) or any(one.load is not None and one.load.parked for one in self.tries.values())

    # Orders

    def _take(self, orders: Orders, weights: int) -> None:
        for number in orders.drops:
            one = self.tries.get(number)
            if one is None:
                continue
            if one.load is not None and one.load.parked:
                one.dropped = True  # vLLM keeps its blocks until it is reported
                self.counts["dropped_in_mid_load"] += 1
            else:
                del self.tries[number]
        for look_up in orders.look_ups:
            self.tries[look_up.attempt] = self._begin(look_up, orders.epoch)
        abandoned = [copy for copy in self.copies if copy.save.job in orders.abandoned]
        self.counts["abandoned"] += len(abandoned)
        self.copies = [copy for copy in self.copies if copy not in abandoned]
        for save in orders.saves:
            self.copies.append(_Copy(save, orders.epoch, weights, self.tick + self._steps("copy")))
        for load in orders.loads:
            one = self.tries[load.attempt]
            assert load.stop_token <= one.tokens
            assert load.first_token >= one.look_up.have_tokens
            one.load, one.loaded_at = load, self.tick + self._steps("transfer")

    def _steps(self, of: str) -> int:
        script = self.draws.script
        return self.draws.steps(script.copy_steps if of == "copy" else script.transfer_steps)

    def _begin(self, look_up: LookUp, epoch: int) -> _Try:
        hashes = _hashes(look_up.prompt.hashes)
        keys = [(epoch, self.rank, 0, hash) for hash in hashes]
        chunks = next((index for index, key in enumerate(keys) if key not in self.store), len(keys))
        chunks = min(chunks, (look_up.prompt_tokens - 1) // BLOCK)
        found: dict[tuple[int, int], Tags] = {}
        if self.setting.windowed:
            while chunks:
                window = {(1, at): self.store.get((epoch, self.rank, 1, hashes[at])) for at in _window(chunks)}
                if all(window.values()):
                    found.update({key: content for key, content in window.items() if content})
                    break
                chunks -= 1
        found.update({(0, at): self.store[keys[at]] for at in range(chunks)})
        known_at = self.tick + self.draws.steps(self.draws.script.look_up_steps)
        fails = self.draws.chance(self.draws.script.fails)
        return _Try(look_up, found, chunks * BLOCK, known_at, known_at + self._steps("transfer"), fails)

    # Loads

    def _load(self, loads: Sequence[Load], ran: Ran) -> set[int]:
        """Those of this step: each waits until its layers are there, or have failed."""
        failed: set[int] = set()
        for load in loads:
            if load.parked:
                continue
            one = self.tries.pop(load.attempt)
            unverified = one.told is None or one.told.stage is not Stage.STAGED
            assert self.setting.safe or not unverified
            self.counts["loads"] += 1
            if unverified and one.fails:
                failed.add(load.attempt)
                self._fail(load, ran)
            else:
                self._write(load, one)
        return failed

    def _park(self, ran: Ran) -> set[int]:
        failed: set[int] = set()
        for number, one in list(self.tries.items()):
            load = one.load
            if load is None or not load.parked or not (one.dropped or one.loaded_at <= self.tick):
                continue
            del self.tries[number]
            ran.finished.add(load.request)
            if one.dropped:
                continue
            self.counts["parked_loads"] += 1
            if one.fails and (one.told is None or one.told.stage is not Stage.STAGED):
                failed.add(number)
                self._fail(load, ran)
            else:
                self._write(load, one)
        return failed

    def _write(self, load: Load, one: _Try) -> None:
        for group, table in enumerate(load.block_ids):
            for at in range(load.first_token // BLOCK, load.stop_token // BLOCK):
                if table[at]:
                    self.cache.fill(group, table[at], one.found.get((group, at), (BAD,) * BLOCK))

    def _fail(self, load: Load, ran: Ran) -> None:
        """Of its blocks some are overwritten with anything, and none is sure."""
        self.counts["failed_loads"] += 1
        for group, table in enumerate(load.block_ids):
            ids = [id for id in table[load.first_token // BLOCK : load.stop_token // BLOCK] if id]
            ran.invalid.update(ids)
            for id in ids:
                self.cache.spoil(group, id)

    # The step

    def _remember(self, output: Any) -> None:
        for new in output.scheduled_new_reqs:
            self.tables[new.req_id] = tuple(list(ids) for ids in new.block_ids)
        cached = output.scheduled_cached_reqs
        for request, added in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if request in cached.resumed_req_ids:
                self.tables[request] = tuple(list(ids) for ids in added)
            elif added is not None:
                for table, ids in zip(self.tables[request], added, strict=True):
                    table.extend(ids)

    def _compute(
        self, request: str, before: int, count: int, weights: int, token_at: Callable[[str, int], int]
    ) -> bool:
        """Its KV, and whether all that it read was right. What follows from something wrong is wrong."""
        tables, right, tag = self.tables[request], True, weights
        for position in range(before + count):
            tag = hash((tag, token_at(request, position)))
            first_read = max(0, before - WINDOW + 1)
            for group, table in enumerate(tables):
                if position >= before:
                    self.cache.write(group, table, position, tag if right else BAD)
                elif group == 0 or position >= first_read:
                    right &= self.cache.slot(group, table, position) == tag
        return right

    # Saves

    def _check_copies(self, expected: Callable[[str, int, int], Sequence[int]]) -> None:
        """Whenever its blocks are read, a save finds what is final and right."""
        for copy in self.copies:
            for part in copy.save.parts:
                for index, id in enumerate(part.block_ids):
                    at = part.first + index
                    right = tuple(expected(copy.save.request, (at + 1) * BLOCK, copy.weights))[at * BLOCK :]
                    assert self.cache.block(part.group, id) == right, f"{copy.save} reads what is wrong"

    def _report(self, step: int, failed: set[int], expected: Callable[[str, int, int], Sequence[int]]) -> Report:
        copied: dict[int, frozenset[int]] = {}
        here = frozenset((self.rank,))
        for copy in [one for one in self.copies if one.at <= self.tick]:
            self.copies.remove(copy)
            hashes = _hashes(copy.save.prompt.hashes)
            for part in copy.save.parts:
                for index, id in enumerate(part.block_ids):
                    key = (copy.epoch, self.rank, part.group, hashes[part.first + index])
                    self.store[key] = self.cache.block(part.group, id)
                    self.counts["stored_chunks"] += 1
            copied[copy.save.job] = here
            self.settling.append((self.tick + self._steps("copy"), copy.save.job))
        stored = {job: here for at, job in self.settling if at <= self.tick}
        self.settling = [(at, job) for at, job in self.settling if at > self.tick]
        return Report(step, self._progress(), copied, stored, frozenset(failed))

    def _progress(self) -> dict[int, dict[int, Progress]]:
        news: dict[int, dict[int, Progress]] = {}
        for number, one in list(self.tries.items()):
            if one.load is not None or one.known_at > self.tick:
                continue
            if not one.tokens:
                progress = Progress(Stage.MISSED)
            elif one.staged_at > self.tick:
                fits = 0.0 if self.draws.chance(self.draws.script.fits) else None
                progress = Progress(
                    Stage.FETCHING, one.tokens, self._boundary(), fits, arrived_bytes=self.draws.steps(1)
                )
            elif one.fails:
                progress = Progress(Stage.FAILED, reason="scripted")
            else:
                progress = Progress(Stage.STAGED, one.tokens, self._boundary())
            if progress != one.told:
                one.told = progress
                news[number] = {self.rank: progress}
            if progress.stage in (Stage.MISSED, Stage.FAILED):
                del self.tries[number]
        return news

    def _boundary(self) -> int:
        """Windows end where they end: what was fetched of them serves no shorter prefix."""
        return 0 if self.setting.windowed else BLOCK


def _window(chunks: int) -> range:
    return range(max(0, chunks - -(-(WINDOW - 1) // BLOCK)), chunks)


def _hashes(joined: bytes) -> list[bytes]:
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]


def _batch(output: Any) -> list[tuple[str, int, int]]:
    """Requests in the order in which vLLM scheduled them, with what was computed of them before."""
    cached = output.scheduled_cached_reqs
    before = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    before |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
    return [(request, before[request], count) for request, count in output.num_scheduled_tokens.items()]
