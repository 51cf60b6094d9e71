"""An engine's loop around vLLM's real scheduler and scripted ranks, and what must hold of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.utils import KVOutputAggregator
from vllm.v1.outputs import DraftTokenIds, KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import RequestStatus

from objectcache.connectors.vllm.connector import ReportMetadata
from tests.vllm.hazards import engine
from tests.vllm.hazards.cache import WRONG_TOKEN, continued, tags
from tests.vllm.hazards.engine import Setting
from tests.vllm.hazards.script import Draws, Script
from tests.vllm.hazards.worker import Rank, Store

STEP_S = 0.01


@dataclass
class _Step:
    output: Any
    samples: dict[str, int]
    """Requests that sample in it, and the position of what they do."""
    results: Any = None


class World:
    def __init__(self, setting: Setting, script: Script | None = None, seed: str = "0") -> None:
        script = script or Script()
        self.setting = setting
        self.now = 0.0
        self.weights = 1
        self.counts: Counter[str] = Counter()
        self.store: Store = {}
        self.side = engine.side_of(setting, lambda: self.now)
        self.scheduler = engine.build(setting, self.side)
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self.free_blocks = self.pool.get_num_free_blocks()
        self.draws = Draws(script, seed)
        self.ranks = [
            Rank(setting, rank, self.store, Draws(script, f"{seed}/{rank}"), self.counts)
            for rank in range(setting.ranks)
        ]
        self._aggregator = KVOutputAggregator(setting.ranks)
        self._queue: deque[_Step] = deque()
        self._whole: dict[str, list[int]] = {}
        self._prompts: dict[str, int] = {}
        self._tags: dict[tuple[str, int], list[int]] = {}
        self._sampled: dict[tuple[str, int], int] = {}
        self.outputs: dict[str, list[int]] = {}
        self.aborted: set[str] = set()
        self._requests: dict[str, Any] = {}

    # What a test does

    def add(self, id: str, prompt: Sequence[int], tokens: int = 4, params: dict[str, Any] | None = None) -> None:
        self._whole[id] = continued(prompt, tokens)
        self._prompts[id] = len(prompt)
        self.outputs[id] = []
        request = engine.request(id, list(prompt), tokens, params)
        self._requests[id] = request
        self.scheduler.add_request(request)

    def abort(self, id: str) -> None:
        if self.scheduler.finish_requests(id, RequestStatus.FINISHED_ABORTED):
            self.aborted.add(id)
            self.counts["aborts"] += 1

    def reset(self, *, new_weights: bool = False) -> bool:
        """vLLM's cache and the connector's. New weights come with all requests preempted."""
        if new_weights:
            assert self.quiet
            self.weights += 1
        done: bool = self.scheduler.reset_prefix_cache(reset_running_requests=new_weights, reset_connector=True)
        self.counts["new_weights" if new_weights else "resets"] += 1
        return done

    def forget(self) -> None:
        """vLLM's own cache is empty, as after a restart."""
        assert self.quiet
        assert self.scheduler.reset_prefix_cache()

    @property
    def quiet(self) -> bool:
        """No step is under way, and nobody reads or writes blocks."""
        return not self._queue and not any(rank.busy for rank in self.ranks) and not self.side.has_pending_push_work()

    def run(self, steps: int = 2_000) -> None:
        """Until nothing is left to do."""
        for _ in range(steps):
            if not self.step():
                return
        raise AssertionError(f"still at it: {self.counts} {self.side.counters}")

    def step(self) -> bool:
        """As EngineCore.step and step_with_batch_queue do. False: there was nothing to do."""
        self.now += STEP_S
        depth = 2 if self.setting.asynchronous else 1
        scheduled = False
        if len(self._queue) < depth and self.scheduler.has_requests():
            self._schedule()
            scheduled = True
            if len(self._queue) < depth and self._queue[-1].output.total_num_scheduled_tokens:
                return True
        if not self._queue:
            return scheduled
        self._disturb()
        self._update(self._queue.popleft())
        self._disturb()
        return True

    def until(self, happened: str, more_than: int = 0, steps: int = 200) -> None:
        """Steps until that was counted, by the ranks or the scheduler's side."""
        for _ in range(steps):
            if self.counts[happened] + self.side.counters[happened] > more_than:
                return
            self.step()
        raise AssertionError(f"no {happened}: {self.counts} {self.side.counters}")

    def check(self) -> None:
        """After all is done: outputs are right, and every block was given back."""
        for id, whole in self._whole.items():
            prompt = self._prompts[id]
            if id in self.aborted:
                assert self.outputs[id] == whole[prompt : prompt + len(self.outputs[id])]
            else:
                assert self.outputs[id] == whole[prompt:], f"{id}: {self.side.counters} {self.counts}"
        assert not self.scheduler.has_requests()
        assert self.pool.get_num_free_blocks() == self.free_blocks
        assert not any(rank.busy for rank in self.ranks)
        assert not any(rank.tries for rank in self.ranks), "attempts that nobody wants are kept"

    # The loop

    def _schedule(self) -> None:
        output = self.scheduler.schedule()
        self.counts["steps"] += 1
        self.counts["preemptions"] += len(output.preempted_req_ids or ())
        samples = {}
        for id in output.num_scheduled_tokens:
            request = self.scheduler.requests[id]
            if not request.is_prefill_chunk:
                samples[id] = request.num_computed_tokens
        step = _Step(output, samples)
        self._queue.append(step)
        if self.draws.chance(0.5):
            self._execute_through(step)

    def _execute_through(self, last: _Step) -> None:
        for step in self._queue:
            if step.results is None:
                step.results = self._execute(step)
            if step is last:
                return

    def _execute(self, step: _Step) -> ModelRunnerOutput:
        output = step.output
        orders = output.kv_connector_metadata.orders
        drafted = output.scheduled_spec_decode_tokens

        def token_at(id: str, position: int) -> int:
            ahead = position - len(self._requests[id].all_token_ids)
            return int(drafted[id][ahead]) if id in drafted and ahead >= 0 else self._token_at(id, position)

        ran = [rank.run(output, orders, self.weights, token_at, self._expected) for rank in self.ranks]
        right = set.intersection(*(one.right for one in ran))
        ids = list(output.num_scheduled_tokens)
        sampled: list[list[int]] = []
        for id in ids:
            position = step.samples.get(id)
            if position is None:
                sampled.append([])
                continue
            drafts = drafted.get(id, [])
            position -= len(drafts)
            tokens = self._accepted(id, position, drafts) if id in right else [WRONG_TOKEN]
            self._sampled[id, position] = tokens[0]
            sampled.append(tokens)
        outputs = []
        for one in ran:
            connector = KVConnectorOutput(
                finished_recving=one.finished or None,
                invalid_block_ids=one.invalid,
                kv_connector_worker_meta=ReportMetadata(one.report),
            )
            outputs.append(
                ModelRunnerOutput(
                    req_ids=ids,
                    req_id_to_index={id: index for index, id in enumerate(ids)},
                    sampled_token_ids=sampled,
                    kv_connector_output=connector,
                )
            )
        merged = self._aggregator.aggregate(outputs)
        assert merged is not None
        return merged

    def _update(self, step: _Step) -> None:
        if step.results is None:
            step.results = self._execute(step)
        for outputs in self.scheduler.update_from_output(step.output, step.results).values():
            for one in outputs.outputs:
                self.outputs[one.request_id] += one.new_token_ids
        if self.setting.drafts:
            self._draft(list(step.samples))

    def _accepted(self, id: str, position: int, drafts: Sequence[int]) -> list[int]:
        """What a model says from `position` on: the drafts that are right, and one token more."""
        right = self._whole[id][position:] or [WRONG_TOKEN]
        accepted = next(
            (at for at, (one, other) in enumerate(zip(drafts, right, strict=False)) if one != other), len(drafts)
        )
        self.counts["rejected"] += len(drafts) - accepted
        return right[: accepted + 1]

    def _draft(self, ids: list[str]) -> None:
        """Some of it right."""
        drafts = []
        for id in ids:
            right = self._whole[id][len(self._requests[id].all_token_ids) :][: self.setting.drafts]
            wrong = self.draws.steps(self.setting.drafts)
            drafts.append((right + [1] * self.setting.drafts)[: self.setting.drafts - wrong] + [2] * wrong)
        self.scheduler.update_draft_token_ids(DraftTokenIds(ids, drafts))

    def _disturb(self) -> None:
        script = self.draws.script
        if self.draws.chance(script.aborts):
            alive = sorted(self.scheduler.requests)
            if alive:
                self.abort(self.draws.random.choice(alive))
        if self.draws.chance(script.resets):
            self.reset()

    def _token_at(self, id: str, position: int) -> int:
        known = self._requests[id].all_token_ids
        return known[position] if position < len(known) else self._sampled[id, position]

    def _expected(self, id: str, stop: int, weights: int) -> list[int]:
        found = self._tags.get((id, weights))
        if found is None:
            found = self._tags[id, weights] = tags(self._whole[id], weights)
        return found[:stop]
