"""A process that runs vLLM engines, one after another: a JSON object a line says what to do, another what came of it.

    {"do": "start", "model": "llama", "folder": "/tmp/…", "settings": {…}}

The engine runs in the process itself, in steps that `run` makes, unless its executor has processes of its own.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.vllm.models import make

CONNECTOR = {
    "kv_connector": "ObjectCacheConnector",
    "kv_connector_module_path": "objectcache.connectors.vllm",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}
DEFAULTS = {
    "dtype": "float32",
    "skip_tokenizer_init": True,
    "enforce_eager": True,
    "max_model_len": 1024,
    "block_size": 32,
    "enable_prefix_caching": False,
    "disable_log_stats": False,
    "distributed_executor_backend": "uni",
}
COUNTERS = {
    "external_hits": "vllm:external_prefix_cache_hits",
    "local_hits": "vllm:prefix_cache_hits",
    "preemptions": "vllm:num_preemptions",
}
OURS = "vllm:objectcache_"
"""How the connector's own counters begin: here they go by the rest of their name, and their label."""
SETTLE_S = 30.0


class EngineHost:
    """What the parent asks for, by name."""

    def __init__(self) -> None:
        self._llm: Any = None
        self._waits: list[tuple[str, float]] = []
        self._requests = 0

    def start(self, model: str, folder: str, connector: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
        """`connector` is what its `kv_connector_extra_config` says; None: vLLM without one."""
        from vllm import LLM

        arguments = {**DEFAULTS, "model": str(make(model, Path(folder))), **settings}
        if connector is not None:
            arguments["kv_transfer_config"] = {**CONNECTOR, "kv_connector_extra_config": dict(connector)}
        self._llm = LLM(**arguments)
        if connector is not None and arguments["distributed_executor_backend"] == "uni":
            self._watch_waits()

    def made(
        self, model: str, folder: str, connector: Mapping[str, Any], settings: Mapping[str, Any], version: str
    ) -> None:
        """The connector alone, as an engine makes it, in a vLLM that says it is of `version` ("": of its own)."""
        import vllm
        from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
        from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.kv_cache_interface import KVCacheConfig

        transfer = {**CONNECTOR, "kv_connector_extra_config": dict(connector)}
        arguments = {**DEFAULTS, "model": str(make(model, Path(folder))), "kv_transfer_config": transfer, **settings}
        config = EngineArgs(**arguments).create_engine_config()
        before = vllm.__version__
        vllm.__version__ = version or before
        try:
            nothing = KVCacheConfig(num_blocks=1, kv_cache_tensors=[], kv_cache_groups=[])
            KVConnectorFactory.create_connector(config, KVConnectorRole.SCHEDULER, nothing).shutdown()
        finally:
            vllm.__version__ = before

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        abort: Sequence[int],
        abort_after_s: float,
        arrive_s: Sequence[float],
        salt: str | None = None,
        transfer_params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Requests at once, or when they `arrive_s` after the first; those of `abort` are given up in the middle."""
        from vllm import SamplingParams

        engine = self._llm.llm_engine
        before = self._counters()
        self._waits.clear()
        extra = {"kv_transfer_params": dict(transfer_params)} if transfer_params else None
        params = SamplingParams(
            temperature=0, max_tokens=max_tokens, ignore_eos=True, logprobs=1, detokenize=False, extra_args=extra
        )
        names = [f"request-{self._requests + i}" for i in range(len(prompts))]
        self._requests += len(prompts)
        began_s = time.monotonic()
        arrivals = sorted(zip(arrive_s or [0.0] * len(prompts), range(len(prompts)), strict=True))
        finished: dict[str, Any] = {}
        times_s: dict[str, list[float]] = {name: [] for name in names}
        aborted: list[str] = []
        while arrivals or engine.has_unfinished_requests():
            elapsed_s = time.monotonic() - began_s
            while arrivals and arrivals[0][0] <= elapsed_s:
                index = arrivals.pop(0)[1]
                prompt = {"prompt_token_ids": list(prompts[index])} | ({"cache_salt": salt} if salt else {})
                engine.add_request(names[index], prompt, params)
            if abort and not aborted and elapsed_s >= abort_after_s:
                aborted = [names[index] for index in abort]
                engine.abort_request(aborted)
            if not engine.has_unfinished_requests():
                time.sleep(0.001)
                continue
            for output in engine.step():
                times_s[output.request_id].append(time.monotonic() - began_s)
                if output.finished:
                    finished[output.request_id] = output
        after = self._counters()
        return {
            "outputs": [_told(finished.get(name), times_s[name]) for name in names],
            "counted": {name: value - before.get(name, 0) for name, value in after.items()},
            "waits": list(self._waits),
            "seconds": time.monotonic() - began_s,
        }

    def settle(self) -> None:
        """Steps, though nothing is asked, until the connector has nothing under way; as a server's engine does."""
        scheduler = self._core().scheduler
        until_s = time.monotonic() + SETTLE_S
        while scheduler.has_requests():
            assert time.monotonic() < until_s, "the connector always has something under way"
            self._llm.llm_engine.step()

    def reset(self) -> bool:
        return bool(self._llm.reset_prefix_cache())

    def free_blocks(self) -> int:
        return int(self._core().scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def stop(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()

    def _core(self) -> Any:
        return self._llm.llm_engine.engine_core.engine_core

    def _counters(self) -> dict[str, float]:
        metrics = self._llm.get_metrics()
        counted: dict[str, float] = {
            short: sum(int(metric.value) for metric in metrics if metric.name == name)
            for short, name in COUNTERS.items()
        }
        for metric in metrics:
            if metric.name.startswith(OURS) and hasattr(metric, "value"):
                labels = [metric.labels[name] for name in ("reason", "layer") if metric.labels.get(name)]
                counted[".".join([metric.name.removeprefix(OURS), *labels])] = metric.value
        return counted

    def _watch_waits(self) -> None:
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        connector: Any = get_kv_transfer_group()
        wait = connector.wait_for_layer_load

        def watched(layer_name: str) -> None:
            began_s = time.monotonic()
            wait(layer_name)
            self._waits.append((layer_name, time.monotonic() - began_s))

        connector.wait_for_layer_load = watched


def _told(output: Any, times_s: list[float]) -> dict[str, Any] | None:
    """None of an aborted request."""
    if output is None or not output.outputs or output.outputs[0].finish_reason == "abort":
        return None
    completion = output.outputs[0]
    tokens = [int(token) for token in completion.token_ids]
    logprobs = [at[token].logprob for token, at in zip(tokens, completion.logprobs, strict=True)]
    return {"tokens": tokens, "logprobs": logprobs, "cached": output.num_cached_tokens, "times_s": times_s}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is a log
    host = EngineHost()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"result": getattr(host, asked.pop("do"))(**asked)}
        except Exception as error:  # noqa: BLE001 - the parent raises it
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
    host.stop()


if __name__ == "__main__":
    main()
