"""A delivery of three layers without anybody who delivers, and places for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from objectcache.cache.retrieval import Retrieval
from objectcache.device import BlockTable, Place, paged_kv, paged_latent
from objectcache.layout import DeliveryGeometry, PartShape

CHUNKS = 6


@dataclass
class World:
    """Three layers with slices of two sizes, of two parts; layer 1 is held by both."""

    layers_per_unit: int = 1
    deadline_s: float = 30.0
    wipe: bool = False  # the memory, as soon as it goes back: somebody else writes there
    closed: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kv = [torch.zeros(2, CHUNKS, 4, 2, 8, dtype=torch.bfloat16) for _ in range(2)]
        self.latent = [torch.zeros(CHUNKS, 4, 10) for _ in range(2)]
        table = BlockTable(range(CHUNKS)[::-1], block_tokens=4, chunk_tokens=4, num_chunks=CHUNKS)
        kv = [paged_kv(cache, chunk_tokens=4).at(table) for cache in self.kv]
        latent = [paged_latent(cache, chunk_tokens=4).at(table) for cache in self.latent]
        self.places: dict[tuple[int, int], Place] = {(0, 0): kv[0], (0, 1): kv[1], (1, 1): latent[0], (1, 2): latent[1]}
        parts = (
            PartShape((0, 1), (kv[0].slice_bytes,) * 2, CHUNKS),
            PartShape((1, 2), (latent[0].slice_bytes,) * 2, CHUNKS),
        )
        self.geometry = DeliveryGeometry(parts, self.layers_per_unit)
        self.memory = np.random.default_rng(5).integers(0, 256, self.geometry.total_bytes, dtype=np.uint8)
        self.retrieval = Retrieval(
            self.geometry,
            self.memory.data,
            deadline_s=time.perf_counter() + self.deadline_s,
            on_close=_note(self.closed, self.memory if self.wipe else None),
        )

    def landed(self, part: int, layer: int) -> torch.Tensor:
        start = self.geometry.offset(part, layer)
        flat = self.memory[start : start + self.geometry.layer_bytes(part, layer)]
        return torch.from_numpy(flat.reshape(CHUNKS, -1).copy())

    def holds(self, layer: int) -> bool:
        """Whether every part of `layer` is in its place."""
        found = []
        for part in self.geometry.parts_of(layer):
            place = self.places[part, layer]
            slices = torch.zeros(CHUNKS, place.slice_bytes, dtype=torch.uint8)
            place.gather(slices, 0)
            found.append(torch.equal(slices, self.landed(part, layer)))
        return all(found)


def _note(closed: list[bool], wiped: Any) -> Callable[[bool], None]:
    def note(complete: bool) -> None:
        closed.append(complete)
        if wiped is not None:
            wiped[:] = 0

    return note
