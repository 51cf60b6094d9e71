"""Device to host: what a prefill notices of its KV being copied out beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import torch

from device_check.world import World
from objectcache.bench.result import interleaved, ratio_row, sample_row
from objectcache.device import DeviceLayerSource


def measure_storing(world: World, label: str, rate_bytes_s: float, targets: Sequence[memoryview]) -> None:
    """A prefill that makes KV at `rate_bytes_s`, alone, and with a thread that copies every layer to `targets`."""
    _, places = next(world.layouts())
    world.prepare_compute(world.layer_bytes / rate_bytes_s)
    spent_s: list[float] = []

    def alone() -> None:
        for _ in range(world.num_layers):
            world.compute()

    def stored() -> None:
        sources: list[DeviceLayerSource] = []
        ready = threading.Semaphore(0)

        def store() -> None:
            for layer in range(world.num_layers):
                ready.acquire()
                sources[layer].copy_into(targets[layer % len(targets)])

        thread = threading.Thread(target=store)
        thread.start()
        start_s = time.perf_counter()
        for layer in range(world.num_layers):
            world.compute()
            sources.append(world.saver.source(places[0, layer]))
            ready.release()
        if world.cuda:
            torch.cuda.current_stream().synchronize()  # the prefill's end; the last copies may still go on
        spent_s.append(time.perf_counter() - start_s)
        thread.join()

    alone()
    stored()
    spent_s.clear()
    taken = interleaved({"alone": lambda: world.timed(alone), "stored": lambda: world.timed(stored)}, world.pairs)
    base = sample_row(f"{label}: prefill alone", "ms", [1e3 * s for s in taken["alone"]])
    beside = sample_row(f"{label}: prefill while storing", "ms", [1e3 * s for s in spent_s])
    until = sample_row(f"{label}: until all is in host memory", "ms", [1e3 * s for s in taken["stored"]])
    slowdown = ratio_row(f"{label}: slowdown", beside, base)
    world.add(base, beside, until, slowdown)
    world.summary.setdefault("prefill_slowdown", {})[label] = round(slowdown["median"], 4)
