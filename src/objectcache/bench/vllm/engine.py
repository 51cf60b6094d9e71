"""vLLM engines, each in a process of its own that stays: others idle while one is measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from objectcache.bench.children import JsonChild
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.vllm.settings import VllmBenchSettings

_START_TIMEOUT_S = 300.0
_CALL_TIMEOUT_S = 300.0
_MODULE = "objectcache.bench.vllm.engine_child"
_SCRIPT = Path(__file__).with_name("engine_child.py")
_ENVIRONMENT = {
    # One thread less than cores in all of them: any connector makes vLLM keep one free, its absence does not.
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
    "LMCACHE_TRACK_USAGE": "false",
    "DO_NOT_TRACK": "1",
    "LMCACHE_DISABLE_BANNER": "1",
}


@dataclass(frozen=True, slots=True)
class Prefill:
    """`tokens` are those computed; of the prompt's, `local_tokens` came from vLLM's own prefix cache and
    `external_tokens` from the connector. Begun at `started_s` (CLOCK_MONOTONIC)."""

    started_s: float
    ttft_s: float
    tokens: list[int]
    local_tokens: int
    external_tokens: int


@dataclass(frozen=True, slots=True)
class Decoding:
    """Seconds from token to token; `hooks` as in `hooks.Hooks.end`, where they are timed."""

    itl_s: list[float]
    hooks: dict[str, Any] | None


def engine_arguments(
    settings: VllmBenchSettings, model: Path, transfer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Of vLLM's `EngineArgs`; `transfer` is its `kv_transfer_config`. Equal for all but that.

    Without async scheduling: there vLLM recovers from failed loads, so that layers may be announced before they are
    verified.
    """
    arguments = {
        "model": str(model),
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "async_scheduling": False,
        "block_size": settings.block_tokens,
        "max_model_len": settings.max_tokens,
        "max_num_batched_tokens": settings.max_tokens,
        "disable_log_stats": False,
    }
    return arguments | ({"kv_transfer_config": dict(transfer)} if transfer else {})


class Engine(AbstractContextManager["Engine"]):
    """Ready when made. `python` is another interpreter, which needs nothing of ours. Raises BenchmarkError."""

    def __init__(
        self,
        arguments: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        python: Path | None = None,
        time_hooks: bool = False,
    ) -> None:
        ours = (sys.executable, "-m")
        self._child = JsonChild(
            [_MODULE if python is None else str(_SCRIPT)],
            interpreter=ours if python is None else (str(python), "-P"),
            environment=_ENVIRONMENT | dict(environment or {}),
        )
        try:
            told = self._child.ask({"engine": dict(arguments), "hooks": time_hooks}, _START_TIMEOUT_S)
        except BaseException:
            self._child.close()
            raise
        self.versions: dict[str, str] = told["versions"]

    def prefill(self, prompt: list[int], *, store: bool = True) -> Prefill:
        """Without `store`, our connector keeps nothing of it; others do not know that."""
        return Prefill(**self._call("prefill", prompt=prompt, store=store))

    def run_idle(self, seconds: float) -> None:
        """Steps without requests, in which connectors hear of what they store."""
        self._call("run_idle", seconds=seconds)

    def decode(self, prompt: list[int], tokens: int, beside: list[int] | None = None) -> Decoding:
        """One request; `beside` is the prompt of another one, whose load must not end meanwhile."""
        return Decoding(**self._call("decode", prompt=prompt, tokens=tokens, beside=beside))

    def told(self) -> dict[str, float]:
        """What our connector has counted since the start: hits, failures and others by reason."""
        counters: dict[str, float] = self._call("told")["counters"]
        return counters

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        answer = self._child.ask({"call": method, **arguments}, _CALL_TIMEOUT_S)
        if "failed" in answer:
            raise BenchmarkError(f"an engine: {answer['failed']}")
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()
