"""What comes out of an engine's cache, and when the engine may write there again."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from objectcache.device import DeviceLayerSource, DeviceSaver, SliceOrder
from objectcache.errors import LayoutError, NotSupportedError, ObjectCacheError
from tests.device.caches import CONTIGUOUS, DTYPES, PAGED, EngineCache, Shape, make, random_slices

SAVERS: dict[str, Callable[[], DeviceSaver]] = {
    "direct": lambda: DeviceSaver("cpu"),
    "staged": lambda: DeviceSaver("cpu", staged=True),
    "staged in pieces": lambda: DeviceSaver("cpu", staged=True, staging_bytes=1000),
    "staged slice by slice": lambda: DeviceSaver("cpu", staged=True, staging_bytes=1, num_staging=3),
}


def filled(layout: str, dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> tuple[EngineCache, bytes]:
    heads, head_size = (1, 20) if "latent" in layout else (3, 8)
    shape = Shape(layout, dtype, heads, head_size, 8, 4, 7, order=SliceOrder.HEADS)
    cache: EngineCache = make(shape, range(shape.num_blocks)[::-1], device=device)
    slices = random_slices(shape)
    cache.place.scatter(torch.from_numpy(slices).to(device), 0)
    return cache, slices.tobytes()


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("how", SAVERS)
@pytest.mark.parametrize("layout", [*PAGED, *CONTIGUOUS])
def test_a_layer_comes_out_in_chunk_order(layout: str, how: str, pinned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: pinned)
    saver = SAVERS[how]()
    for dtype in DTYPES:
        cache, expected = filled(layout, dtype)
        copied: list[bool] = []
        source = saver.source(cache.place, on_copied=lambda copied=copied: copied.append(True))  # type: ignore[misc]
        assert (source.num_bytes, source.copied, copied) == (len(expected), False, [])
        memory = bytearray(len(expected) + 10)
        source.copy_into(memoryview(memory))
        assert memory == expected + bytes(10)
        assert (source.copied, source.wait_copied(0), copied) == (True, True, [True])


def test_a_source_is_for_once() -> None:
    cache, expected = filled("kv")
    told: list[str] = []
    source = DeviceSaver("cpu").source(cache.place, on_copied=lambda: told.append("free"))
    with pytest.raises(LayoutError):
        source.copy_into(memoryview(bytearray(len(expected) - 1)))
    assert not source.copied
    source.copy_into(memoryview(bytearray(expected)))
    with pytest.raises(ObjectCacheError, match="already"):
        source.copy_into(memoryview(bytearray(expected)))
    source.drop()
    assert told == ["free"]


def test_what_is_dropped_is_free() -> None:
    cache, expected = filled("kv")
    told: list[str] = []
    source = DeviceSaver("cpu").source(cache.place, on_copied=lambda: told.append("free"))
    assert not source.wait_copied(0)
    source.drop()
    source.drop()
    assert (source.copied, told) == (True, ["free"])
    with pytest.raises(ObjectCacheError):
        source.copy_into(memoryview(bytearray(expected)))


def test_what_is_forgotten_is_free() -> None:
    cache, _ = filled("kv")
    told: list[str] = []
    source = DeviceSaver("cpu").source(cache.place, on_copied=lambda: told.append("free"))
    assert told == []
    del source
    gc.collect()
    assert told == ["free"]


def test_a_failing_copy_frees_the_place_and_is_ours() -> None:
    cache, expected = filled("kv")

    class Broken:
        device, num_chunks, slice_bytes = cache.place.device, cache.place.num_chunks, cache.place.slice_bytes

        def scatter(self, slices: torch.Tensor, first: int) -> None:
            raise AssertionError

        def gather(self, slices: torch.Tensor, first: int) -> None:
            raise RuntimeError("no kernel")

        def copies(self, first: int, stop: int) -> None:
            return None

    source = DeviceSaver("cpu").source(Broken())
    with pytest.raises(ObjectCacheError, match="no kernel"):
        source.copy_into(memoryview(bytearray(expected)))
    assert source.copied


def test_caches_made_in_inference_mode_come_out() -> None:
    with torch.inference_mode():
        cache, expected = filled("kv")
    memory = bytearray(len(expected))
    DeviceSaver("cpu").source(cache.place).copy_into(memoryview(memory))
    assert memory == expected


def test_other_devices_are_refused() -> None:
    with pytest.raises(NotSupportedError):
        DeviceSaver("meta")

    class Elsewhere:
        device, num_chunks, slice_bytes = torch.device("meta"), 1, 1

        def scatter(self, slices: torch.Tensor, first: int) -> None: ...

        def gather(self, slices: torch.Tensor, first: int) -> None: ...

        def copies(self, first: int, stop: int) -> None: ...

    with pytest.raises(LayoutError):
        DeviceSaver("cpu").source(Elsewhere())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("layout", [*PAGED, *CONTIGUOUS])
def test_on_a_gpu(layout: str) -> None:
    saver = DeviceSaver("cuda", staging_bytes=1000)
    for dtype, pinned in itertools.product(DTYPES, (False, True)):
        cache, expected = filled(layout, dtype, device="cuda")
        source: DeviceLayerSource = saver.source(cache.place)
        memory = torch.zeros(len(expected), dtype=torch.uint8, pin_memory=pinned).numpy()
        source.copy_into(memory.data)
        np.testing.assert_array_equal(memory, np.frombuffer(expected, dtype=np.uint8))
