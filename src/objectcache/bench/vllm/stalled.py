"""Decodes beside a request whose load hangs, and steps with nothing to load: what the connector costs others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from objectcache.bench.result import interleaved
from objectcache.bench.stores.settings import BenchStore
from objectcache.bench.vllm.engine import Decoding, Engine, engine_arguments
from objectcache.bench.vllm.rows import ALONE, BESIDE
from objectcache.bench.vllm.settings import VllmBenchSettings
from objectcache.bench.vllm.site import GatewayOverStore, transfer_of, wait_until_stored

_BUCKET = "stalled"
_IDLE_S = 0.3


def measure_stalls(
    settings: VllmBenchSettings, store: BenchStore, model: Path, directory: Path, step: Callable[[], None]
) -> dict[str, list[Decoding]]:
    """Of `settings.stalls` rounds: one request decodes alone; and beside another one, whose prefix is stored in a store
    that does not answer. Raises ObjectCacheError."""
    folder = directory / _BUCKET
    with ExitStack() as stack:
        gateway = stack.enter_context(GatewayOverStore(store.below(_BUCKET), folder, stallable=True))
        engine = stack.enter_context(
            Engine(
                engine_arguments(settings, model, transfer_of(gateway.url, "in-time")),
                environment={"XDG_CACHE_HOME": str(folder), "HOME": str(folder), **gateway.environment},
                time_hooks=True,
            )
        )
        engine.prefill(settings.prompt(0)[: settings.prefix_tokens + 1])
        engine.run_idle(_IDLE_S)
        wait_until_stored(store.below(_BUCKET), settings.llama.kv_bytes(settings.prefix_tokens))
        numbers = iter(range(2 * settings.stalls + 2))

        def alone() -> Decoding:
            return engine.decode(settings.stranger(next(numbers)), settings.decode_tokens)

        def beside() -> Decoding:
            gateway.forget()
            gateway.stall(True)
            try:
                return engine.decode(settings.stranger(next(numbers)), settings.decode_tokens, settings.prompt(0))
            finally:
                gateway.stall(False)

        alone(), beside()
        return interleaved({ALONE: alone, BESIDE: beside}, settings.stalls, lambda name: step())
