"""What is moved in the check: layers in host memory, and places for them in every layout."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from objectcache.bench.result import Row
from objectcache.buffers import BufferPool
from objectcache.cache.retrieval import Retrieval
from objectcache.device import (
    BlockTable,
    DeviceLoader,
    DeviceSaver,
    Place,
    SliceOrder,
    contiguous_kv,
    paged_kv,
    paged_latent,
)
from objectcache.layout import DeliveryGeometry, PartShape

HEADS, HEAD_SIZE, LATENT = 8, 128, 576
LayerPlaces = dict[tuple[int, int], Place]


class World:
    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        if not self.cuda:
            torch.set_num_threads(1)  # a pool of threads beside busy ones measures the scheduler
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

    # -- what is moved ----------------------------------------------------------------------------------

    def layouts(self) -> Iterator[tuple[str, LayerPlaces]]:
        """Places of all layers in each layout, one after the other: they are as large as what is moved."""
        kv_tokens = self.layer_bytes // (2 * HEADS * HEAD_SIZE * 2)

        def paged(chunk: int, block: int, kinds_dim: int, order: SliceOrder, *, strewn: bool = True) -> LayerPlaces:
            blocks = kv_tokens // block
            ids = np.random.default_rng(1).permutation(blocks) if strewn else np.arange(blocks)
            table = BlockTable(ids, block_tokens=block, chunk_tokens=chunk, num_chunks=kv_tokens // chunk)
            sizes = (blocks, 2) if kinds_dim else (2, blocks)
            return {
                (0, layer): paged_kv(
                    self.zeros(*sizes, block, HEADS, HEAD_SIZE), chunk_tokens=chunk, kinds_dim=kinds_dim, order=order
                ).at(table)
                for layer in range(self.num_layers)
            }

        yield "paged 16/16 [2, blocks]", paged(16, 16, 0, SliceOrder.TOKENS)
        yield "paged 16/16 [2, blocks] in a run", paged(16, 16, 0, SliceOrder.TOKENS, strewn=False)
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
        chunks = self.layer_bytes // (16 * LATENT * 2)
        table = BlockTable(np.arange(chunks)[::-1], block_tokens=16, chunk_tokens=16, num_chunks=chunks)
        yield (
            "latent paged 16/16",
            {
                (0, layer): paged_latent(self.zeros(chunks, 16, LATENT), chunk_tokens=16).at(table)
                for layer in range(self.num_layers)
            },
        )

    def zeros(self, *sizes: int) -> torch.Tensor:
        return torch.zeros(*sizes, dtype=torch.bfloat16, device=self.device)

    def shape(self, places: LayerPlaces) -> tuple[int, int]:
        place = places[0, 0]
        return place.num_chunks, place.slice_bytes

    def clear(self, places: LayerPlaces) -> None:
        with torch.inference_mode():
            nothing = torch.zeros(self.shape(places), dtype=torch.uint8, device=self.device)
            for layer in range(self.num_layers):
                places[0, layer].scatter(nothing, 0)
        self.sync()

    def retrieval(self, places: LayerPlaces) -> Retrieval:
        num_chunks, slice_bytes = self.shape(places)
        part = PartShape(tuple(range(self.num_layers)), (slice_bytes,) * self.num_layers, num_chunks)
        return Retrieval(DeliveryGeometry((part,), 1), self.memory, deadline_s=time.perf_counter() + 60)

    def bytes_of(self, places: LayerPlaces) -> int:
        """Of all layers: nearly `total_bytes`, where slices do not fill a layer evenly."""
        num_chunks, slice_bytes = self.shape(places)
        return self.num_layers * num_chunks * slice_bytes

    def landed(self, places: LayerPlaces) -> Retrieval:
        retrieval = self.retrieval(places)
        for layer in range(self.num_layers):
            retrieval.land(layer)
        return retrieval

    # -- what is computed beside it ---------------------------------------------------------------------

    def prepare_compute(self, window_s: float) -> None:
        """A layer's compute of about `window_s`: as many products as that takes, and one pass over memory."""
        size = 2048 if self.cuda else 128
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
