"""How long a connector's methods hold the engine's thread: wrapped in the class, in the process of the engine."""

from __future__ import annotations

import importlib
import inspect
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

_STEP = "build_connector_meta"
"""Called once a step."""
_AT_START_OR_END = ("__init__", "register_kv_caches", "shutdown")


class Hooks:
    """What the wrapped methods took between `begin` and `end`. A method that calls another one counts once; what a
    wrapper itself takes inside counts too, some 0.2 µs a call."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._steps: list[float] = []
        self._inside = False

    def begin(self) -> None:
        self._seconds.clear()
        self._steps.clear()

    def end(self) -> dict[str, Any]:
        """{"steps", "us_per_step", "median_us": of a step, "by_hook": µs a step by method}."""
        steps = len(self._steps)
        by_hook = {name: seconds / steps * 1e6 for name, seconds in self._seconds.items()}
        return {
            "steps": steps,
            "us_per_step": sum(by_hook.values()),
            "median_us": statistics.median(self._steps) * 1e6,
            "by_hook": by_hook,
        }

    def wrap(self, connector: type, names: frozenset[str]) -> None:
        """Those of its methods that are named."""
        for name in names:
            method = getattr(connector, name, None)
            if callable(method):
                setattr(connector, name, self._timed(name, method))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return method(*arguments, **named)
            self._inside = True
            start_s = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                seconds = time.perf_counter() - start_s
                self._inside = False
                self._seconds[name] += seconds
                if name == _STEP:
                    self._steps.append(seconds)
                elif self._steps:
                    self._steps[-1] += seconds

        return call


def timed_hooks(transfer: Mapping[str, Any]) -> Hooks:
    """Of the connector that vLLM's `kv_transfer_config` names: all that vLLM calls while it runs."""
    from vllm.distributed.kv_transfer.kv_connector.v1 import base

    names = frozenset(
        name
        for kind in (base.KVConnectorBase_V1, base.SupportsHMA)
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if name not in _AT_START_OR_END and inspect.isfunction(inspect.getattr_static(kind, name))
    )
    connector = getattr(importlib.import_module(transfer["kv_connector_module_path"]), transfer["kv_connector"])
    hooks = Hooks()
    hooks.wrap(connector, names)
    return hooks
