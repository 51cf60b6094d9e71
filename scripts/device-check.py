#!/usr/bin/env python3
"""objectcache.device on a real device: bit for bit what the plainest loop does, and how near the hardware it comes.

    PYTHONPATH=src python3 scripts/device-check.py --json device.json      # about a minute on an H100

Needs torch and numpy, and of the package only what device code imports: other packages that are missing are stood in
for. `--device cpu --quick` finds out whether the script works.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
for missing in ("lmdb", "botocore", "awscrt", "obstore"):
    if importlib.util.find_spec(missing) is None:
        sys.modules[missing] = types.ModuleType(missing)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from objectcache.bench.machine import describe_machine  # noqa: E402
from objectcache.bench.result import BenchmarkResult, Row, interleaved, ratio_row, sample_row  # noqa: E402
from objectcache.buffers import BufferPool  # noqa: E402
from objectcache.cache.retrieval import Retrieval  # noqa: E402
from objectcache.device import (  # noqa: E402
    BlockTable,
    DeviceLoader,
    DeviceSaver,
    Place,
    Places,
    SliceOrder,
    contiguous_kv,
    cuda_registrar,
    paged_kv,
    paged_latent,
)
from objectcache.layout import DeliveryGeometry, PartShape  # noqa: E402
from tests.device.caches import CONTIGUOUS, DTYPES, PAGED, Shape, make, random_slices  # noqa: E402

HEADS, HEAD_SIZE, LATENT = 8, 128, 576


class Check:
    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        self.pairs = 3 if options.quick else options.pairs
        self.num_layers = 4 if options.quick else options.layers
        self.layer_bytes = (2 << 20) if options.quick else options.layer_mib << 20
        self.total_bytes = self.num_layers * self.layer_bytes
        self.loader = DeviceLoader(self.device, staging_bytes=options.staging_mib << 20, num_staging=options.staging)
        self.saver = DeviceSaver(self.device, staging_bytes=options.staging_mib << 20)
        self.pool = BufferPool(self.total_bytes)
        self.memory = self.pool.allocate(self.total_bytes).view
        one = np.random.default_rng(0).integers(0, 256, self.layer_bytes, dtype=np.uint8)
        for layer in range(self.num_layers):
            self.host(layer)[:] = torch.from_numpy(np.roll(one, layer * 4099))
        self.rows: list[Row] = []
        self.summary: dict[str, Any] = {}

    def host(self, layer: int) -> torch.Tensor:
        flat = self.memory[layer * self.layer_bytes : (layer + 1) * self.layer_bytes]
        return torch.frombuffer(flat, dtype=torch.uint8)

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object]) -> float:
        self.sync()
        start_s = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - start_s

    def add(self, *rows: Row) -> None:
        for row in rows:
            self.rows.append(row)
            spread = f"({row['min']:.3f} … {row['max']:.3f})"
            print(f"  {row['name']:<58} {row['median']:9.3f} {row['unit']:<6} {spread}", flush=True)

    # -- a: bit for bit ----------------------------------------------------------------------------

    def equality(self) -> None:
        """Every layout, dtype, order and relation of chunks to blocks, against the loop; then whole layers."""
        checked = 0
        for layout, dtype, order in itertools.product([*PAGED, *CONTIGUOUS], DTYPES, SliceOrder):
            heads, head_size = (1, 20) if "latent" in layout else (3, 8)
            for chunk, block in [(8, 8), (16, 4), (4, 16), (12, 8)][: None if layout in PAGED else 1]:
                shape = Shape(layout, dtype, heads, head_size, chunk, block, 5, order=order)
                ids = list(range(shape.num_blocks + 2))[:1:-1]
                expected, slices = make(shape, ids), random_slices(shape)
                expected.put(slices)
                cache = make(shape, ids, device=self.device.type)
                cache.place.scatter(torch.from_numpy(slices).to(self.device), 0)
                assert all(map(torch.equal, cache.raw(), expected.raw())), f"{shape}: scattered wrongly"
                back = torch.zeros(slices.shape, dtype=torch.uint8, device=self.device)
                cache.place.gather(back, 0)
                assert torch.equal(back.cpu(), torch.from_numpy(slices)), f"{shape}: gathered wrongly"
                checked += 1
        for name, places in self.layouts():
            self.clear(places)
            with self.loader.load(self.landed(places), places) as loading:
                for layer in range(self.num_layers):
                    loading.wait(layer)
                    with torch.inference_mode():
                        got = torch.empty(self.shape(places), dtype=torch.uint8, device=self.device)
                        places[0, layer].gather(got, 0)  # in the compute stream, right behind the wait
                    assert torch.equal(got.cpu().flatten(), self.host(layer)), f"{name}: layer {layer} is wrong"
            out = bytearray(self.layer_bytes)
            for layer in range(self.num_layers):
                self.saver.source(places[0, layer]).copy_into(memoryview(out))
                assert torch.equal(torch.frombuffer(out, dtype=torch.uint8), self.host(layer)), f"{name}: saved wrongly"
            checked += self.num_layers
        self.summary["equal"] = checked
        print(f"  {checked} scatters and gathers are equal, bit for bit")

    # -- what is moved ----------------------------------------------------------------------------------

    def layouts(self) -> Iterator[tuple[str, dict[tuple[int, int], Place]]]:
        """Places of all layers in each layout, one after the other: they are as large as what is moved."""
        kv_tokens = self.layer_bytes // (2 * HEADS * HEAD_SIZE * 2)

        def paged(chunk: int, block: int, kinds_dim: int, order: SliceOrder) -> dict[tuple[int, int], Place]:
            blocks = kv_tokens // block
            ids = np.random.default_rng(1).permutation(blocks)
            table = BlockTable(ids, block_tokens=block, chunk_tokens=chunk, num_chunks=kv_tokens // chunk)
            sizes = (blocks, 2) if kinds_dim else (2, blocks)
            return {
                (0, layer): paged_kv(
                    self.zeros(*sizes, block, HEADS, HEAD_SIZE), chunk_tokens=chunk, kinds_dim=kinds_dim, order=order
                ).at(table)
                for layer in range(self.num_layers)
            }

        yield "paged 16/16 [2, blocks]", paged(16, 16, 0, SliceOrder.TOKENS)
        yield "paged 16/16 [blocks, 2]", paged(16, 16, 1, SliceOrder.TOKENS)
        yield "paged 64/16 [2, blocks]", paged(64, 16, 0, SliceOrder.TOKENS)
        yield "paged 16/128 [2, blocks]", paged(16, 128, 0, SliceOrder.TOKENS)
        yield "paged 16/16 from heads first", paged(16, 16, 0, SliceOrder.HEADS)
        yield (
            "contiguous 16 from heads first",
            {
                (0, layer): contiguous_kv(
                    self.zeros(1, HEADS, kv_tokens, HEAD_SIZE),
                    self.zeros(1, HEADS, kv_tokens, HEAD_SIZE),
                    chunk_tokens=16,
                    num_chunks=kv_tokens // 16,
                )
                for layer in range(self.num_layers)
            },
        )
        chunks = self.layer_bytes // 2048  # slices of 2 KiB: 64 values a token, so that they fill a layer evenly
        table = BlockTable(np.arange(chunks)[::-1], block_tokens=16, chunk_tokens=16, num_chunks=chunks)
        yield (
            "latent paged 16/16",
            {
                (0, layer): paged_latent(self.zeros(chunks, 16, 64), chunk_tokens=16).at(table)
                for layer in range(self.num_layers)
            },
        )

    def zeros(self, *sizes: int) -> torch.Tensor:
        return torch.zeros(*sizes, dtype=torch.bfloat16, device=self.device)

    def shape(self, places: Places) -> tuple[int, int]:
        place = places[0, 0]
        return place.num_chunks, place.slice_bytes

    def clear(self, places: Places) -> None:
        with torch.inference_mode():
            nothing = torch.zeros(self.shape(places), dtype=torch.uint8, device=self.device)
            for layer in range(self.num_layers):
                places[0, layer].scatter(nothing, 0)
        self.sync()

    def retrieval(self, places: Places) -> Retrieval:
        num_chunks, slice_bytes = self.shape(places)
        part = PartShape(tuple(range(self.num_layers)), (slice_bytes,) * self.num_layers, num_chunks)
        return Retrieval(DeliveryGeometry((part,), 1), self.memory, deadline_s=time.perf_counter() + 60)

    def landed(self, places: Places) -> Retrieval:
        retrieval = self.retrieval(places)
        for layer in range(self.num_layers):
            retrieval.land(layer)
        return retrieval

    # -- b: goodput -------------------------------------------------------------------------------------

    def bare(self) -> None:
        """The same bytes by cudaMemcpyAsync alone."""
        with self.stream_of_bare():
            for layer in range(self.num_layers):
                self.bare_buffers[layer % 2].copy_(self.host(layer), non_blocking=True)

    @contextmanager
    def stream_of_bare(self) -> Iterator[None]:
        if not self.cuda:
            yield
            return
        with torch.cuda.stream(self.bare_stream):
            yield

    def prepare_bare(self) -> None:
        self.bare_stream = torch.cuda.Stream() if self.cuda else None
        self.bare_buffers = [torch.empty(self.layer_bytes, dtype=torch.uint8, device=self.device) for _ in range(2)]

    def load_all(self, places: Places) -> None:
        with self.loader.load(self.landed(places), places) as loading:
            for layer in range(self.num_layers):
                loading.wait(layer)

    def first_layer(self, places: Places) -> float:
        with self.loader.load(self.landed(places), places) as loading:
            start_s = time.perf_counter()
            loading.wait(0)
            if self.cuda:
                torch.cuda.current_stream().synchronize()
            return time.perf_counter() - start_s

    def goodput(self, label: str, names: Sequence[str] | None = None) -> None:
        for name, places in self.layouts():
            if names is not None and name not in names:
                continue
            self.load_all(places)
            self.timed(self.bare)
            ways: dict[str, Callable[[], float]] = {
                "bare": lambda: self.timed(self.bare),
                "load": lambda places=places: self.timed(lambda: self.load_all(places)),  # type: ignore[misc]
                "first": lambda places=places: self.first_layer(places),  # type: ignore[misc]
            }
            samples = interleaved(ways, self.pairs, after=lambda way: self.sync())
            bare = sample_row(f"{label}: bare copies", "GB/s", [self.total_bytes / s / 1e9 for s in samples["bare"]])
            load = sample_row(f"{label}: {name}", "GB/s", [self.total_bytes / s / 1e9 for s in samples["load"]])
            ratio = ratio_row(f"{label}: {name} over bare", load, bare)
            first = sample_row(f"{label}: {name}, first layer", "ms", [1e3 * s for s in samples["first"]])
            self.add(bare, load, ratio, first)
            self.summary.setdefault(f"load_ratio_{label}", {})[name] = round(ratio["median"], 3)

    # -- c: overlap with compute ------------------------------------------------------------------------

    def prepare_compute(self, window_s: float) -> None:
        """A layer's compute of about `window_s`: products of a size that fills the device, and one pass over memory."""
        size = 4096 if self.cuda else 128
        dtype = torch.bfloat16 if self.cuda else torch.float32
        self.left, self.right = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
        self.product = torch.empty_like(self.left)
        self.products = 1
        for _ in range(3):
            taken_s = self.timed(lambda: [self.compute() for _ in range(10)]) / 10
            self.products = max(1, round(self.products * window_s / taken_s))

    def compute(self) -> None:
        for _ in range(self.products):
            torch.mm(self.left, self.right, out=self.product)
        self.product.mul_(1.0)

    def overlap(self) -> None:
        """Time to the end of a prefill over a loaded prefix: waiting layer by layer, and for all at once."""
        name, places = next(self.layouts())
        transfer_s = min(self.timed(lambda: self.load_all(places)) for _ in range(3)) / self.num_layers
        for share in (0.5, 1.0, 2.0):
            self.prepare_compute(share * transfer_s)

            def layerwise() -> None:
                with self.loader.load(self.landed(places), places) as loading:
                    for layer in range(self.num_layers):
                        loading.wait(layer)
                        self.compute()

            def at_once() -> None:
                with self.loader.load(self.landed(places), places) as loading:
                    for layer in range(self.num_layers):
                        loading.wait(layer)
                    for _ in range(self.num_layers):
                        self.compute()

            def alone() -> None:
                for _ in range(self.num_layers):
                    self.compute()

            works = {"compute": alone, "load": lambda: self.load_all(places), "layerwise": layerwise, "once": at_once}
            ways = {way: (lambda work=work: self.timed(work)) for way, work in works.items()}
            taken = interleaved(ways, self.pairs)
            # Transfer and compute overlap perfectly but for the first layer's transfer or the last one's compute.
            ideal = [
                max(load + compute / self.num_layers, compute + load / self.num_layers)
                for load, compute in zip(taken["load"], taken["compute"], strict=True)
            ]
            label = f"overlap, window {share:g} × transfer"
            rows = {way: sample_row(f"{label}: {way}", "ms", [1e3 * s for s in taken[way]]) for way in taken}
            rows["ideal"] = sample_row(f"{label}: ideal", "ms", [1e3 * s for s in ideal])
            ratio = ratio_row(f"{label}: layerwise over ideal", rows["layerwise"], rows["ideal"])
            gain = ratio_row(f"{label}: all at once over layerwise", rows["once"], rows["layerwise"])
            self.add(*rows.values(), ratio, gain)
            self.summary.setdefault("ttft_over_ideal", {})[f"{share:g}"] = round(ratio["median"], 3)
            self.summary.setdefault("at_once_over_layerwise", {})[f"{share:g}"] = round(gain["median"], 3)

    def arriving(self) -> None:
        """The same with layers that come from a network of 12.5 GB/s: what the way to the device adds to it."""
        name, places = next(self.layouts())
        arrival_s = self.layer_bytes / 12.5e9
        self.prepare_compute(arrival_s / 2)

        def run() -> None:
            retrieval = self.retrieval(places)
            begin_s = time.perf_counter()

            def network() -> None:
                for layer in range(self.num_layers):
                    time.sleep(max(0.0, begin_s + (layer + 1) * arrival_s - time.perf_counter()))
                    retrieval.land(layer)

            thread = threading.Thread(target=network)
            thread.start()
            with self.loader.load(retrieval, places) as loading:
                for layer in range(self.num_layers):
                    loading.wait(layer)
                    self.compute()
            thread.join()

        run()
        ideal_s = self.num_layers * arrival_s + self.timed(self.compute)
        taken = [self.timed(run) for _ in range(self.pairs)]
        row = sample_row("arriving at 12.5 GB/s: over its ideal", "ratio", [s / ideal_s for s in taken])
        self.add(row)
        self.summary["arriving_over_ideal"] = round(row["median"], 3)

    # -- d: storing -------------------------------------------------------------------------------------

    def storing(self, label: str, targets: Sequence[memoryview]) -> None:
        """A prefill alone, and with every layer's KV copied out by a storing thread beside it."""
        name, places = next(self.layouts())
        self.prepare_compute(1.5 * self.layer_bytes / 50e9 if self.cuda else 1e-3)
        spent_s: list[float] = []

        def alone() -> None:
            for _ in range(self.num_layers):
                self.compute()

        def stored() -> None:
            sources = []
            ready = threading.Semaphore(0)

            def store() -> None:
                for layer in range(self.num_layers):
                    ready.acquire()
                    sources[layer].copy_into(targets[layer % len(targets)])

            thread = threading.Thread(target=store)
            thread.start()
            start_s = time.perf_counter()
            for layer in range(self.num_layers):
                self.compute()
                sources.append(self.saver.source(places[0, layer]))
                ready.release()
            if self.cuda:
                torch.cuda.current_stream().synchronize()  # the prefill's end; the last copies may still go on
            spent_s.append(time.perf_counter() - start_s)
            thread.join()

        alone()
        stored()
        spent_s.clear()
        taken = interleaved({"alone": lambda: self.timed(alone), "stored": lambda: self.timed(stored)}, self.pairs)
        base = sample_row(f"{label}: prefill alone", "ms", [1e3 * s for s in taken["alone"]])
        beside = sample_row(f"{label}: prefill while storing", "ms", [1e3 * s for s in spent_s])
        until = sample_row(f"{label}: until all is in host memory", "ms", [1e3 * s for s in taken["stored"]])
        slowdown = ratio_row(f"{label}: slowdown", beside, base)
        self.add(base, beside, until, slowdown)
        self.summary.setdefault("prefill_slowdown", {})[label] = round(slowdown["median"], 4)


def run(options: argparse.Namespace) -> BenchmarkResult:
    check = Check(options)
    check.prepare_bare()
    machine = describe_machine(ROOT, ["torch", "numpy", "transformers"])
    machine["device"] = torch.cuda.get_device_name() if check.cuda else "cpu"
    print(f"{machine['device']}, torch {torch.__version__}: {check.num_layers} layers of {check.layer_bytes >> 20} MiB")
    main = "paged 16/16 [2, blocks]"
    print("unpinned memory")
    check.goodput("unpinned", [main])
    pageable = [memoryview(bytearray(check.layer_bytes)) for _ in range(2)]
    check.storing("storing, unpinned", pageable)
    if check.cuda:
        start_s = time.perf_counter()
        check.pool.register(cuda_registrar)
        check.add(sample_row("pinning the pool", "s/GB", [(time.perf_counter() - start_s) / check.total_bytes * 1e9]))
        assert check.host(0).is_pinned(), "registered memory is not seen as pinned"
    print("equality")
    check.equality()
    print("pinned memory")
    check.goodput("pinned")
    check.overlap()
    check.arriving()
    check.storing("storing, pinned", [check.memory[: check.layer_bytes], check.memory[check.layer_bytes :]])
    if check.cuda:
        check.summary["device_memory_peak_bytes"] = torch.cuda.max_memory_allocated()
    result = BenchmarkResult("device-check", vars(options), machine, options.quick)
    result.rows, result.summary = check.rows, check.summary
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", help="write the result there")
    parser.add_argument("--quick", action="store_true", help="a few small layers")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--layer-mib", type=int, default=64)
    parser.add_argument("--staging-mib", type=int, default=32)
    parser.add_argument("--staging", type=int, default=3)
    options = parser.parse_args()
    start_s = time.perf_counter()
    result = run(options)
    print(f"summary: {result.summary}")
    print(f"{time.perf_counter() - start_s:.0f} s in all")
    if options.json:
        target = options.json
        options.json = Path(target).name
        result.write(Path(target))


if __name__ == "__main__":
    main()
