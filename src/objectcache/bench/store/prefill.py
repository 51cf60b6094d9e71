"""A synthetic prefill: a thread that computes, and hands over a layer's KV whenever one is done."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import numpy as np

from objectcache.bench.children import JsonChild
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import child_pids, cpu_s
from objectcache.bench.retrieve.workload import PART, bench_namespace, random_chain
from objectcache.bench.store.compute import Compute
from objectcache.bench.store.settings import StoreSettings
from objectcache.bench.store.waiting import waited_for_core_s
from objectcache.bench.store.warm import warm
from objectcache.storing import StoreHandle, StoreQueue

_DRAIN_S = 60.0


class Beside(Enum):
    """What happens while the thread computes."""

    NOTHING = auto()
    BARE = auto()
    """A bare process moves as many bytes at the same times: what the machine itself makes of it."""
    STORING = auto()


@dataclass(frozen=True, slots=True)
class Prefilled:
    """`seconds` is how long the compute thread took; `call_s` is each hand-over of a layer, in it, and `waited_s` how
    long its core was another's while it could have run.

    `stored` and `dropped` are shares of the bytes produced, `drained_s` how long storing went on afterwards, `cpu_s`
    CPU seconds of all of this process and its children but the compute thread's.
    """

    started_s: float
    seconds: float
    produced_bytes: int
    stored: float = 0.0
    dropped: float = 0.0
    drained_s: float = 0.0
    cpu_s: float = 0.0
    waited_s: float = 0.0
    call_s: tuple[float, ...] = ()


@dataclass
class SyntheticPrefill:
    """`run` computes on `core`. `clear(bytes)` deletes what a measurement stored, on the file system of `directory`.
    `bare` is a bare mover.
    """

    settings: StoreSettings
    compute: Compute
    queue: StoreQueue
    clear: Callable[[int], object]
    directory: Path
    core: set[int]
    bare: JsonChild
    _seeds: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._namespace = bench_namespace(self.settings.shape, self.settings.seed)
        # The engine's memory: as many layers as are surely copied before the first comes round again.
        rng = np.random.default_rng(self.settings.seed)
        self._layers = [memoryview(bytearray(rng.bytes(self.settings.layer_bytes))) for _ in range(4)]

    def run(self, quanta: int, beside: Beside) -> Prefilled:
        """All prefills of one measurement, one after the other. Raises BenchmarkError when storing does not end."""
        store = beside is Beside.STORING
        chains = [
            random_chain(self._namespace, self.settings.chunks, next(self._seeds))
            for _ in range(self.settings.prefills if store else 0)
        ]
        warm(self.directory, self.settings.payload_bytes)
        before, cpu_before_s = self.queue.stats, _cpu_s()
        thread_cpu_s, waited_s = [0.0], [0.0]
        call_s: list[float] = []
        start_s = time.perf_counter()
        end_s = [start_s]

        def compute() -> None:
            os.sched_setaffinity(0, self.core)
            begun_cpu_s, begun_waited_s = time.thread_time(), waited_for_core_s()
            nonlocal start_s
            start_s = time.perf_counter()
            for prefill in range(self.settings.prefills):
                handle = self.queue.begin(self._namespace, chains[prefill], PART) if store else None
                self._prefill(quanta, handle, call_s)
            end_s[0] = time.perf_counter()
            thread_cpu_s[0] = time.thread_time() - begun_cpu_s
            waited_s[0] = waited_for_core_s() - begun_waited_s

        thread = threading.Thread(target=compute, name="compute")
        if beside is Beside.BARE:
            layers = self.settings.prefills * self.settings.shape.num_layers
            self.bare.tell({"layers": layers, "every_s": quanta * self.compute.quantum_s})
        thread.start()
        thread.join()
        if beside is Beside.BARE:
            self.bare.read()
        if store and not self.queue.flush(_DRAIN_S):
            raise BenchmarkError(f"storing did not end within {_DRAIN_S:.0f} s")
        drained_s = time.perf_counter() - end_s[0]
        after = self.queue.stats
        produced = self.settings.payload_bytes
        result = Prefilled(
            started_s=start_s,
            seconds=end_s[0] - start_s,
            produced_bytes=produced,
            stored=(after.stored_bytes - before.stored_bytes) / produced,
            dropped=(after.lost_bytes - before.lost_bytes) / produced,
            drained_s=drained_s if store else 0.0,
            cpu_s=_cpu_s() - cpu_before_s - thread_cpu_s[0],
            waited_s=waited_s[0],
            call_s=tuple(call_s),
        )
        if store:
            self.clear(after.stored_bytes - before.stored_bytes)
        return result

    def _prefill(self, quanta: int, handle: StoreHandle | None, call_s: list[float]) -> None:
        work = self.compute.quantum
        for layer in range(self.settings.shape.num_layers):
            for _ in range(quanta):
                work()
            if handle is not None:
                start_s = time.perf_counter()
                handle.layer(layer, self._layers[layer % len(self._layers)])
                call_s.append(time.perf_counter() - start_s)
        if handle is not None:
            handle.finish()


def _cpu_s() -> float:
    """Of this process and those that it has started and still has."""
    return time.process_time() + sum(map(cpu_s, child_pids(os.getpid())))
