"""What tests of the tier share: prefixes, requests for them, and what is read of what is held."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from objectcache.descriptor import Versions
from objectcache.errors import ObjectCacheError
from objectcache.keys import KeyChain
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.tier import Holding, LocalTier, TierPart
from objectcache.tier.names import TierName

NAMESPACE = bytes(range(32))
LAYERS, SLICE_BYTES, STEP = 6, 4096, 4
EXTENT = STEP * SLICE_BYTES
OLD, NEW = b"old-segm", b"new-segm"


def open_tier(folder: Path, limit_bytes: int = 1 << 30) -> LocalTier:
    return LocalTier(str(folder), limit_bytes, first_layers=2, on_disk=True)


def keys_of(chain: int, count: int) -> KeyChain:
    return KeyChain(b"".join(bytes([chain]) * 30 + i.to_bytes(2) for i in range(count)))


def part_of(keys: KeyChain, held: tuple[tuple[int, int], ...] = (), first: int = 0) -> TierPart:
    shape = PartShape(tuple(range(LAYERS)), (SLICE_BYTES,) * LAYERS, len(keys), held)
    return TierPart(0, 0, first, 16, keys, shape)


def content(keys: KeyChain, layer: int) -> bytes:
    return b"".join((key[:1] + key[-2:] + bytes([layer])) * (SLICE_BYTES // 4) for key in keys)


def delivered(part: TierPart) -> tuple[DeliveryGeometry, memoryview]:
    geometry = DeliveryGeometry((part.shape,), 1)
    memory = bytearray(geometry.total_bytes)
    for layer in range(LAYERS):
        at = geometry.offset(0, layer)
        memory[at : at + len(part.keys) * SLICE_BYTES] = content(part.keys, layer)
    return geometry, memoryview(memory)


def come(
    tier: LocalTier, keys: KeyChain, versions: Versions | None = None, first: int = 0
) -> tuple[tuple[int, int], ...]:
    """A request for `keys` is served: what was held of it. All of it is kept afterwards."""
    part = part_of(keys, first=first)
    holding = tier.look_up(NAMESPACE, [part])
    try:
        geometry, memory = delivered(part)
        tier.keep(NAMESPACE, [part], [versions or ((len(keys), OLD),)], geometry, memory, holding)
        return holding.parts[0].held
    finally:
        holding.close()


def held(tier: LocalTier, keys: KeyChain) -> tuple[tuple[int, int], ...]:
    holding = tier.look_up(NAMESPACE, [part_of(keys)])
    holding.close()
    return holding.parts[0].held


def read(
    holding: Holding, part: TierPart, executor: ThreadPoolExecutor
) -> tuple[bytearray, list[int], list[ObjectCacheError]]:
    asked = part_of(part.keys, holding.parts[0].held)
    geometry = DeliveryGeometry((asked.shape,), 1)
    memory = bytearray(geometry.total_bytes)
    units: list[int] = []
    errors: list[ObjectCacheError] = []
    over = threading.Event()

    def put(part: int, layer: int, first: int, slices: npt.NDArray[np.uint8]) -> None:
        at = geometry.offset(part, layer) + first * SLICE_BYTES
        memory[at : at + slices.nbytes] = slices.tobytes()

    holding.read(
        executor,
        2,
        geometry,
        memoryview(memory),
        put_mapped=put,
        on_unit=units.append,
        on_failed=errors.append,
        on_over=over.set,
    )
    assert over.wait(10)
    holding.close()
    return memory, units, errors


def files(folder: Path) -> list[tuple[str, int]]:
    """(first layers "f" or rest "r", chunks) of each."""
    names = [TierName.decode(file) for _, _, found in os.walk(folder / "extents") for file in found]
    return sorted(("r" if name.rest else "f", name.num_chunks) for name in names if name)
