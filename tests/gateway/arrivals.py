"""How fast a delivery arrives, seen where it does: in the receiver's memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from objectcache.cache import KVCache, Match, RetrieveOptions
from objectcache.cache.retrieval import Retrieval
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, store_parts
from tests.gateway.process import GatewayProcess

WINDOW_S = 0.05
STRIDE_BYTES = 32 << 10
"""How finely memory is looked at; what lies there is never eight zeros."""
LOOK_S = 0.0005
SLICE_BYTES = 256 << 10
LAYERS = 8


def store_prefix(gateway: GatewayProcess, total_bytes: int, *, seed: int = 0) -> Match:
    namespace = new_namespace(flat_layout(LAYERS, SLICE_BYTES))
    chain = prompt(namespace, total_bytes // (LAYERS * SLICE_BYTES), seed=seed)
    with gateway.open() as cache:
        store_parts(cache, namespace, chain)
        return cache.match(namespace, chain)


def set_caps(of: GatewayProcess, **caps: Any) -> Mapping[str, Any]:
    """`caps` by link: a rate, or None."""
    answer = of.ask("POST", "/?kv-bandwidth", json.dumps({"caps": caps}).encode())
    assert answer.status == 200, answer.body
    shown: Mapping[str, Any] = json.loads(answer.body)
    return shown


class Arrivals:
    """A retrieval, watched from a thread: `samples` of (seconds, bytes that have arrived)."""

    def __init__(self, cache: KVCache, match: Match, *, look_s: float = LOOK_S, gang: str = "") -> None:
        self.retrieval: Retrieval = cache.retrieve(
            match, options=RetrieveOptions(layers_per_unit=1, deadline_s=60.0, gang=gang)
        )
        self._words = np.frombuffer(self.retrieval.memory, np.uint64)[:: STRIDE_BYTES // 8]
        self._look_s = look_s
        self._closing = False
        self.samples: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            over = self._closing or self.retrieval.complete or self.retrieval.error is not None
            self.samples.append((time.monotonic(), int(np.count_nonzero(self._words)) * STRIDE_BYTES))
            if over:
                return
            time.sleep(self._look_s)

    def wait(self) -> None:
        self._thread.join()
        assert self.retrieval.error is None, self.retrieval.error

    def settle(self) -> None:
        """Until nothing has arrived for a while, of what was under way."""
        until_s, stable = time.monotonic() + 10.0, 0
        while stable < 3:
            assert time.monotonic() < until_s, "it does not stop arriving"
            seen = len(self.samples)
            before = self.samples[-1][1] if seen else -1
            time.sleep(0.05)
            stable = stable + 1 if len(self.samples) > seen and self.samples[-1][1] == before else 0

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        del self._words
        self.retrieval.close()

    def at(self, when_s: float) -> float:
        """Bytes that had arrived, between samples as if evenly."""
        times, counts = zip(*self.samples, strict=True)
        return float(np.interp(when_s, times, counts))

    def rates(self, since_s: float | None = None, until_s: float | None = None) -> list[float]:
        """Bytes a second over each 50 ms from then (the first arrival, and a moment) on."""
        began_s = next(when_s for when_s, count in self.samples if count) + 0.01
        ended_s = next(when_s for when_s, count in self.samples if count == self.samples[-1][1])
        at_s, end_s = since_s or began_s, until_s or ended_s
        found = []
        while at_s + WINDOW_S < end_s:
            found.append((self.at(at_s + WINDOW_S) - self.at(at_s)) / WINDOW_S)
            at_s += WINDOW_S
        return found


def off_by(rates: list[float], wanted: float) -> float:
    """By how much the median of the windows misses."""
    return abs(median(rates) / wanted - 1)


def make(path: Path, **settings: Any) -> GatewayProcess:
    return GatewayProcess(path, settings={"workers": 1, "policy": "equal", **settings}).start()
