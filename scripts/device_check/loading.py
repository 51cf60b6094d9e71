"""Host to device: goodput beside bare copies, and what is left of it to see when compute goes on meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from device_check.world import LayerPlaces, World
from objectcache.bench.result import interleaved, ratio_row, sample_row


class BareCopies:
    """The same bytes by cudaMemcpyAsync alone: a layer a call, into two buffers in turn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stream = torch.cuda.Stream() if world.cuda else None
        self._buffers = [torch.empty(world.layer_bytes, dtype=torch.uint8, device=world.device) for _ in range(2)]

    def __call__(self) -> None:
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            for layer in range(self._world.num_layers):
                self._buffers[layer % 2].copy_(self._world.host(layer), non_blocking=True)


def load_all(world: World, places: LayerPlaces) -> None:
    with world.loader.load(world.landed(places), places) as loading:
        for layer in range(world.num_layers):
            loading.wait(layer)


def first_layer_s(world: World, places: LayerPlaces) -> float:
    start_s = time.perf_counter()
    with world.loader.load(world.landed(places), places) as loading:
        loading.wait(0)
        if world.cuda:
            torch.cuda.current_stream().synchronize()
        return time.perf_counter() - start_s


def kernel_s(world: World, move: Callable[[torch.Tensor, int], None], places: LayerPlaces) -> float:
    """Seconds on the device for one layer's scatter or gather."""
    slices = torch.zeros(world.shape(places), dtype=torch.uint8, device=world.device)
    move(slices, 0)
    return world.timed(lambda: [move(slices, 0) for _ in range(20)]) / 20


def measure_goodput(world: World, label: str, names: Sequence[str] = ()) -> None:
    bare = BareCopies(world)
    for name, places in world.layouts():
        if names and name not in names:
            continue
        load_all(world, places)
        world.timed(bare)
        ways: dict[str, Callable[[], float]] = {
            "bare": lambda: world.timed(bare),
            "load": lambda places=places: world.timed(lambda: load_all(world, places)),  # type: ignore[misc]
            "first": lambda places=places: first_layer_s(world, places),  # type: ignore[misc]
        }
        taken = interleaved(ways, world.pairs, after=lambda way: world.sync())
        num_bytes = world.bytes_of(places)
        bare_row = sample_row(f"{label}: bare copies", "GB/s", [world.total_bytes / s / 1e9 for s in taken["bare"]])
        load_row = sample_row(f"{label}: {name}", "GB/s", [num_bytes / s / 1e9 for s in taken["load"]])
        ratio = ratio_row(f"{label}: {name} over bare", load_row, bare_row)
        first = sample_row(f"{label}: {name}, first layer", "ms", [1e3 * s for s in taken["first"]])
        place, layer_bytes = places[0, 0], num_bytes / world.num_layers
        kernels = [
            sample_row(f"{label}: {name}, {way} alone", "GB/s", [layer_bytes / kernel_s(world, move, places) / 1e9])
            for way, move in (("scatter", place.scatter), ("gather", place.gather))
        ]
        world.add(bare_row, load_row, ratio, first, *kernels)
        world.summary.setdefault(f"load_ratio_{label}", {})[name] = round(ratio["median"], 3)


def measure_overlap(world: World) -> None:
    """Time to the end of a prefill over a loaded prefix: waiting layer by layer, and for all at once."""
    _, places = next(world.layouts())
    transfer_s = min(world.timed(lambda: load_all(world, places)) for _ in range(3)) / world.num_layers

    def layerwise() -> None:
        with world.loader.load(world.landed(places), places) as loading:
            for layer in range(world.num_layers):
                loading.wait(layer)
                world.compute()

    def at_once() -> None:
        with world.loader.load(world.landed(places), places) as loading:
            for layer in range(world.num_layers):
                loading.wait(layer)
            for _ in range(world.num_layers):
                world.compute()

    def alone() -> None:
        for _ in range(world.num_layers):
            world.compute()

    works = {"compute": alone, "load": lambda: load_all(world, places), "layerwise": layerwise, "once": at_once}
    for share in (0.5, 1.0, 2.0):
        world.prepare_compute(share * transfer_s)
        ways = {way: (lambda work=work: world.timed(work)) for way, work in works.items()}  # type: ignore[misc]
        taken = interleaved(ways, world.pairs)
        # Perfect overlap, but for the first layer's transfer and the last one's compute.
        ideal = [
            max(load + compute / world.num_layers, compute + load / world.num_layers)
            for load, compute in zip(taken["load"], taken["compute"], strict=True)
        ]
        label = f"overlap, window {share:g} × transfer"
        rows = {way: sample_row(f"{label}: {way}", "ms", [1e3 * s for s in taken[way]]) for way in taken}
        rows["ideal"] = sample_row(f"{label}: ideal", "ms", [1e3 * s for s in ideal])
        ratio = ratio_row(f"{label}: layerwise over ideal", rows["layerwise"], rows["ideal"])
        gain = ratio_row(f"{label}: all at once over layerwise", rows["once"], rows["layerwise"])
        world.add(*rows.values(), ratio, gain)
        world.summary.setdefault("ttft_over_ideal", {})[f"{share:g}"] = round(ratio["median"], 3)
        world.summary.setdefault("at_once_over_layerwise", {})[f"{share:g}"] = round(gain["median"], 3)


def measure_arriving(world: World) -> None:
    """The same with layers that come from a network of 12.5 GB/s: what the way to the device adds to it."""
    _, places = next(world.layouts())
    arrival_s = world.layer_bytes / 12.5e9
    world.prepare_compute(arrival_s / 2)

    def run() -> None:
        retrieval = world.retrieval(places)
        begin_s = time.perf_counter()

        def network() -> None:
            for layer in range(world.num_layers):
                time.sleep(max(0.0, begin_s + (layer + 1) * arrival_s - time.perf_counter()))
                retrieval.land(layer)

        thread = threading.Thread(target=network)
        thread.start()
        with world.loader.load(retrieval, places) as loading:
            for layer in range(world.num_layers):
                loading.wait(layer)
                world.compute()
        thread.join()

    run()
    ideal_s = world.num_layers * arrival_s + world.timed(world.compute)
    taken_s = [world.timed(run) for _ in range(world.pairs)]
    beyond = sample_row("arriving at 12.5 GB/s: beyond the ideal", "ms", [1e3 * (s - ideal_s) for s in taken_s])
    ratio = sample_row("arriving at 12.5 GB/s: over the ideal", "ratio", [s / ideal_s for s in taken_s])
    world.add(beyond, ratio)
    world.summary["arriving_over_ideal"] = round(ratio["median"], 3)
