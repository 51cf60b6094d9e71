"""The engine's side of `bench ttft`: a model, one document's KV in it, in pinned memory and in the gateways."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.retrieve.workload import PART
from objectcache.bench.ttft.model import PrefillModel
from objectcache.bench.ttft.settings import Cell, TtftSettings
from objectcache.cache.tiering import TierOptions
from objectcache.client import ClientOptions, GatewayCache
from objectcache.cores import only_on
from objectcache.device import BlockTable, PagedLayer, cuda_registrar, paged_kv
from objectcache.errors import ConfigError
from objectcache.keys import KeyChain, Namespace, chain_keys
from objectcache.scheduling.windows import WindowModel

_CUDA: Any = torch.cuda  # untyped
_STORING_BYTES = 64 << 20
_SHM = Path("/dev/shm")


class World(AbstractContextManager["World"]):
    """All cells share one document: shorter contexts are its beginning, and so are their stored prefixes."""

    def __init__(self, settings: TtftSettings) -> None:
        """Raises ConfigError where there is no such device."""
        if settings.device == "cuda" and not _CUDA.is_available():
            raise ConfigError("bench ttft needs a CUDA device; `--device cpu` runs a tiny model, to see that it works")
        cores = sorted(os.sched_getaffinity(0))
        if not 0 <= settings.gateway_cores < len(cores):
            raise ConfigError(f"of {len(cores)} cores the gateway can have 0 to {len(cores) - 1} of its own")
        self.settings = settings
        self.device = torch.device(settings.device)
        self.shape = settings.architecture.kv
        self._stack = ExitStack()
        self._gateway_cores = cores[-settings.gateway_cores :] if settings.gateway_cores else None
        self._gateways: dict[str, BenchGateway] = {}
        self.model = PrefillModel(settings.architecture, settings.most_positions, self.device, settings.seed)
        document = np.random.default_rng(settings.seed).integers(
            settings.architecture.vocabulary, size=settings.longest_context
        )
        self.tokens = torch.from_numpy(document).to(self.device)
        self.namespace = Namespace(
            model=f"bench-{self.shape.name}", layout=self.shape.layout, kv_dtype=str(self.model.dtype)
        )
        self.chain: KeyChain = chain_keys(self.namespace, document[: settings.longest_prefix])
        self.layers: list[PagedLayer] = [
            paged_kv(cache, chunk_tokens=self.shape.chunk_tokens) for cache in self.model.caches
        ]
        self._reference: list[torch.Tensor] = []
        self.windows = WindowModel()
        self.local: list[tuple[torch.Tensor, torch.Tensor]] = []
        if settings.gateway_cores:
            self._stack.enter_context(only_on(cores[: -settings.gateway_cores]))

    # -- KV -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def compute_prefix(self) -> None:
        """The longest stored prefix: computed once, kept on the device and, layer by layer, in pinned memory."""
        prefix = self.settings.longest_prefix
        self.model.prefill(self.tokens[:prefix], 0)
        blocks = prefix // self.shape.chunk_tokens
        for layer, cache in enumerate(self.model.caches):
            self._reference.append(cache[:, :blocks].clone())
            keys, values = (states[:prefix] for states in self.model.keys_values(layer))
            self.local.append((self._pinned(keys), self._pinned(values)))
        self.sync()

    def _pinned(self, states: torch.Tensor) -> torch.Tensor:
        held = torch.empty(states.shape, dtype=states.dtype, pin_memory=self.device.type == "cuda")
        return held.copy_(states)

    @torch.inference_mode()
    def put_prefix(self, cell: Cell, *, there: bool) -> None:
        """Before a run: the cell's prefix is `there`, in place; or zeros are, so that only what is loaded can count."""
        blocks = cell.prefix_tokens(self.shape.chunk_tokens) // self.shape.chunk_tokens
        for cache, reference in zip(self.model.caches, self._reference, strict=True):
            if there:
                cache[:, :blocks].copy_(reference[:, :blocks])
            else:
                cache[:, :blocks].zero_()
        self.sync()

    def table(self, tokens: int) -> BlockTable:
        """Of the first `tokens`."""
        size = self.shape.chunk_tokens
        chunks = tokens // size
        return BlockTable(np.arange(chunks), block_tokens=size, chunk_tokens=size, num_chunks=chunks)

    def layer_bytes(self, cell: Cell) -> int:
        """Of the cell's stored prefix at one layer."""
        return cell.prefix_tokens(self.shape.chunk_tokens) // self.shape.chunk_tokens * self.shape.slice_bytes

    def sync(self) -> None:
        if self.device.type == "cuda":
            _CUDA.synchronize()

    # -- gateways -----------------------------------------------------------------------------------------

    def gateway(self, stored: str, progress: Callable[[], None] = lambda: None) -> BenchGateway:
        """The one over "memory" or "disk", with the document stored in it. Raises ObjectCacheError."""
        if stored not in self._gateways:
            gateway = self._stack.enter_context(
                BenchGateway(self.directory(stored), self.settings.gateway, cores=self._gateway_cores)
            )
            self._gateways[stored] = gateway
            self._store(gateway, progress)
        return self._gateways[stored]

    def directory(self, stored: str) -> Path:
        """A new temporary directory, for a store in "memory" or on "disk", or for a "tier"."""
        shm = _SHM if _SHM.is_dir() else None
        parent = {"disk": self.settings.disk, "memory": self.settings.memory or shm, "tier": shm}[stored]
        made = tempfile.TemporaryDirectory(prefix="objectcache-ttft-", dir=parent)
        return Path(self._stack.enter_context(made))

    @torch.inference_mode()
    def _store(self, gateway: BenchGateway, progress: Callable[[], None]) -> None:
        """As it was computed at first: runs since have computed parts again in other steps, with other roundings."""
        for cached, reference in zip(self.model.caches, self._reference, strict=True):
            cached[:, : reference.shape[1]].copy_(reference)
        self.sync()
        cache = self.open_client(gateway, buffer_bytes=_STORING_BYTES)
        size = self.shape.chunk_tokens
        total = self.settings.longest_prefix // size
        table = self.table(self.settings.longest_prefix)
        try:
            for first in range(0, total, self.settings.segment_chunks):
                stop = min(total, first + self.settings.segment_chunks)
                upload = cache.store(self.namespace, self.chain, PART, first=first, stop=stop)
                assert upload is not None, "a fresh store holds nothing"
                with upload:
                    slices = torch.empty(stop - first, self.shape.slice_bytes, dtype=torch.uint8, device=self.device)
                    for layer in self.layers:
                        layer.at(table).gather(slices, first)
                        upload.write_layer(slices.cpu().numpy().data)
                    cache.commit([upload.finish()])
                progress()
        finally:
            cache.close()

    def open_client(
        self,
        gateway: BenchGateway,
        *,
        buffer_bytes: int,
        target: str = "tcp",
        tier: TierOptions | None = None,
        pin: bool = False,
    ) -> GatewayCache:
        """`pin`: its buffers, and what its tier holds, for copies to the device."""
        options = ClientOptions(
            access_key=gateway.credentials.access_key,
            secret_key=gateway.credentials.secret_key,
            target=target,
            receiver=self.settings.receiver if target == "tcp" else "threads",
            receiver_processes=self.settings.receiver_processes if target == "tcp" else 0,
            streams=self.settings.streams,
            buffer_bytes=buffer_bytes,
            prefault=pin,
            tier=tier or TierOptions(),
        )
        cache = GatewayCache(gateway.host, gateway.port, BUCKET, options)
        if pin:
            cache.register_buffers(cuda_registrar if self.device.type == "cuda" else _register_nothing)
        return cache

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _register_nothing(address: int, size_bytes: int) -> Callable[[], None]:
    """What is done with memory is the same where there is nothing to pin it for."""
    return lambda: None
