"""Memory of a cache, pinned for CUDA."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import objectcache
from objectcache.device import cuda_registrar
from objectcache.errors import ConfigError
from tests.tier.world import NAMESPACE, come, content, keys_of, open_tier, part_of


class Cudart:
    """Stands for CUDA's runtime where there is none."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.calls: list[tuple[Any, ...]] = []

    def cudaHostRegister(self, *arguments: int) -> int:  # noqa: N802
        self.calls.append(("register", *arguments))
        return self.code

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self.calls.append(("unregister", address))
        return 0

    def cudaGetErrorString(self, error: int) -> str:  # noqa: N802
        return f"error {error}"

    cudaError = int  # noqa: N815


def test_the_buffers_of_a_cache_are_pinned_until_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = Cudart(0)
    monkeypatch.setattr("objectcache.device.pinning._CUDA", SimpleNamespace(cudart=lambda: cudart))
    options = objectcache.ClientOptions(buffer_bytes=1 << 20)
    cache = objectcache.open("memory://pinned", options=options)
    cache.register_buffers(cuda_registrar)
    ((kind, address, size_bytes, flags),) = cudart.calls
    assert (kind, size_bytes, flags) == ("register", 1 << 20, 1)
    cache.close()
    assert cudart.calls[1:] == [("unregister", address)]


def test_memory_that_cannot_be_pinned_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.device.pinning._CUDA", SimpleNamespace(cudart=lambda: Cudart(2)))
    with pytest.raises(ConfigError, match="4096 bytes could not be pinned"):
        cuda_registrar(1 << 20, 4096)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_what_the_local_tier_holds_is_pinned_where_it_is() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # CUDA pins no files of a disk
        _check_pinned(Path(folder))


def _check_pinned(folder: Path) -> None:
    tier = open_tier(folder)
    tier.mappings.register(cuda_registrar)
    part = part_of(keys_of(1, 70))
    come(tier, part.keys)
    tier.map(NAMESPACE, [part])
    holding = tier.look_up(NAMESPACE, [part])
    found = []
    for extent in holding.parts[0].extents:
        for position in range(len(extent.layers)):
            slices = extent.file.mapped(position, extent.count)
            assert slices is not None
            pinned = torch.from_numpy(slices)
            assert pinned.is_pinned()
            found.append(pinned.to("cuda", non_blocking=True).cpu().numpy().tobytes())
    assert b"".join(found) == b"".join(content(part.keys, layer) for layer in range(2))
    holding.close()
    tier.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu() -> None:
    cache = objectcache.open("memory://pinned", options=objectcache.ClientOptions(buffer_bytes=1 << 20))
    cache.register_buffers(cuda_registrar)
    view = cache.pool.allocate(4096).view  # type: ignore[attr-defined]
    assert torch.frombuffer(view, dtype=torch.uint8).is_pinned()
    del view
    cache.close()
