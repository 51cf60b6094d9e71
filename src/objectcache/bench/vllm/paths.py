"""The engines whose TTFT is compared, and what each hit must be preceded and followed by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.stores.settings import BenchStore
from objectcache.bench.vllm.engine import Engine, Prefill, engine_arguments
from objectcache.bench.vllm.rows import COLD, DIRECT, GATEWAY, LAYERWISE, PEER, WHOLE, path_name
from objectcache.bench.vllm.settings import VllmBenchSettings
from objectcache.bench.vllm.site import GatewayOverStore, open_lmcache, transfer_of, wait_until_stored

_ADMISSIONS = {LAYERWISE: "in-time", WHOLE: "whole"}
_WARM = 2
"""Prefixes beyond those that are measured: connections, kernels, and what a layer takes to compute are known then."""
_IDLE_S = 0.3


def planned(settings: VllmBenchSettings) -> list[str]:
    """Names of the paths, in the order in which they are measured."""
    ours = [path_name(where, how) for where in (GATEWAY, DIRECT) for how in _ADMISSIONS]
    return [COLD, *ours, *([PEER] if settings.peer_python else [])]


@dataclass(frozen=True, slots=True)
class _Path:
    """`before` a measurement makes sure that what is loaded comes from the store, `after` it that nothing of it goes on
    beside others. `expected` tokens come from the connector, each time."""

    engine: Engine
    expected: int
    before: Callable[[], None]
    after: Callable[[], None]


class Paths(AbstractContextManager["Paths"]):
    """All engines, started, and what they load, stored. `begin(stage)` and `step()` tell of progress.

    Raises ObjectCacheError; what it started ends with it.
    """

    def __init__(
        self,
        settings: VllmBenchSettings,
        store: BenchStore,
        model: Path,
        directory: Path,
        begin: Callable[[str], None],
        step: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._model = model
        self._directory = directory
        self._begin, self._step = begin, step
        self._stack = ExitStack()
        self._paths: dict[str, _Path] = {}
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        cold = self._engine(COLD, None)
        self._paths[COLD] = _Path(cold, 0, _nothing, _nothing)
        gateway = self._stack.enter_context(GatewayOverStore(self._store.below(GATEWAY), self._directory / GATEWAY))
        self._add_ours(GATEWAY, gateway.url, gateway.environment, gateway.forget)
        self._add_ours(DIRECT, self._store.below(DIRECT).options.url, {}, _nothing)
        if self._settings.peer_python is not None:
            self._add_peer(self._settings.peer_python)
        for number in range(self._settings.pairs, self._settings.pairs + _WARM):
            for name in self._paths:
                self.measure(name, number)

    def _add_ours(self, where: str, url: str, environment: Mapping[str, str], forget: Callable[[], None]) -> None:
        """Two engines on one store; one of them stores for both."""
        for how, admission in _ADMISSIONS.items():
            name = path_name(where, how)
            engine = self._engine(name, transfer_of(url, admission), environment)
            if how == LAYERWISE:
                self._store_prefixes(name, engine, partial(self._settle, engine, self._store.below(where)))
            self._paths[name] = _Path(engine, self._settings.prefix_tokens, forget, _nothing)

    def _add_peer(self, python: Path) -> None:
        server = self._stack.enter_context(open_lmcache(self._store, python, self._directory))
        engine = self._engine(PEER, server.transfer, python=python)

        def settle() -> None:
            engine.run_idle(_IDLE_S)
            server.settle()

        self._store_prefixes(PEER, engine, lambda _: settle())
        self._paths[PEER] = _Path(engine, self._settings.prefix_tokens, settle, settle)

    def _engine(
        self,
        name: str,
        transfer: Mapping[str, Any] | None,
        environment: Mapping[str, str] | None = None,
        python: Path | None = None,
    ) -> Engine:
        self._begin(f"engine: {name}")
        folder = self._directory / name.replace(", ", "-").replace(" ", "-")
        engine = Engine(
            engine_arguments(self._settings, self._model, transfer),
            environment={"XDG_CACHE_HOME": str(folder), "HOME": str(folder), **(environment or {})},
            python=python,
        )
        self._stack.enter_context(engine)
        self._step()
        return engine

    def _settle(self, engine: Engine, store: BenchStore, prefixes: int) -> None:
        """Until so many are stored: a prefix cache that is emptied before takes from under a copy what it reads."""
        engine.run_idle(_IDLE_S)
        wait_until_stored(store, prefixes * self._prefix_bytes)

    def _store_prefixes(self, name: str, engine: Engine, settle: Callable[[int], None]) -> None:
        self._begin(f"storing: {name}")
        for number in range(self._prefixes):
            # One more token: the last one that is computed is never stored.
            engine.prefill(self._settings.prompt(number)[: self._settings.prefix_tokens + 1])
            settle(number + 1)
        self._step()

    @property
    def versions(self) -> dict[str, str]:
        """Of packages in the engines' interpreters."""
        return {package: found for path in self._paths.values() for package, found in path.engine.versions.items()}

    @property
    def names(self) -> list[str]:
        return list(self._paths)

    def measure(self, name: str, number: int) -> Prefill:
        """The prompt `number` on one path. Raises BenchmarkError unless it loads the whole prefix, from the store."""
        path = self._paths[name]
        path.before()
        prefill = path.engine.prefill(self._settings.prompt(number), store=False)
        path.after()
        if (prefill.local_tokens, prefill.external_tokens) != (0, path.expected):
            raise BenchmarkError(
                f"{name}: {path.expected} tokens should have been loaded, {prefill.external_tokens} were, and "
                f"{prefill.local_tokens} were vLLM's own; told by the connector: {path.engine.told()}"
            )
        return prefill

    @property
    def _prefixes(self) -> int:
        return self._settings.pairs + _WARM

    @property
    def _prefix_bytes(self) -> int:
        return self._settings.llama.kv_bytes(self._settings.prefix_tokens)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _nothing() -> None:
    """For paths that leave nothing behind."""


def steps(settings: VllmBenchSettings) -> int:
    """How often `step` is called: engines, and those of them that store."""
    return len(planned(settings)) + 2 + bool(settings.peer_python)
