"""Models on CUDA devices: KV moves beside their compute (`objectcache.device`). On the CPU nothing has to move."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from objectcache.cache.retrieval import Retrieval
from objectcache.connectors.transformers.slices import KVShape, to_slices
from objectcache.device import DeviceLoader, DeviceRetrieval, DeviceSaver, contiguous_kv
from objectcache.errors import DeliveryError


@cache
def loader_of(device: torch.device) -> DeviceLoader | None:
    """One for all that is loaded to `device`; None where layers are taken straight from where they landed."""
    return DeviceLoader(device) if device.type == "cuda" else None


@cache
def saver_of(device: torch.device) -> DeviceSaver | None:
    """One for all that is stored from `device`; None where slices are made straight from the cache."""
    return DeviceSaver(device) if device.type == "cuda" else None


class LayersAhead:
    """A retrieval whose layers come to the device as they land, ahead of the forward."""

    def __init__(
        self, loader: DeviceLoader, retrieval: Retrieval, shape: KVShape, chunk_tokens: int, *, room: int
    ) -> None:
        """Takes memory for K and V of all layers, with `room` more tokens each. Raises DeliveryError without it."""
        num_chunks = retrieval.geometry.parts[0].num_chunks
        self._tokens = num_chunks * chunk_tokens
        sizes = (2, 1, shape.kv_heads, self._tokens + room, shape.head_dim)
        try:
            self._states = {
                layer: torch.empty(sizes, dtype=shape.dtype, device=loader.device) for layer in range(shape.num_layers)
            }
        except RuntimeError as error:
            raise DeliveryError(f"no memory on {loader.device} for {self._tokens} stored tokens: {error}") from error
        places = {
            (0, layer): contiguous_kv(keys, values, chunk_tokens=chunk_tokens, num_chunks=num_chunks)
            for layer, (keys, values) in self._states.items()
        }
        self._loading: DeviceRetrieval = loader.load(retrieval, places)

    def take(self, layer: int, room: int) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of `layer`, [1, kv_heads, tokens + room, head_dim] each, in place for what the current stream is
        given from here on. Once a layer: it is the caller's. Raises like `DeviceRetrieval.wait`."""
        self._loading.wait(layer)
        states = self._states.pop(layer)
        missing = self._tokens + room - states.shape[3]
        if missing > 0:
            states = torch.cat((states, states.new_empty((*states.shape[:3], missing, states.shape[4]))), dim=3)
        return states[0, :, :, : self._tokens + room], states[1, :, :, : self._tokens + room]

    def close(self) -> None:
        self._loading.close()


def slices_later(keys: torch.Tensor, values: torch.Tensor, chunk_tokens: int) -> Callable[[], npt.NDArray[np.uint8]]:
    """`to_slices` for another thread to call: of K and V as they are when what is queued by now is computed.

    They must not be written to afterwards.
    """
    saver = saver_of(keys.device)
    if saver is None:
        return lambda: to_slices(keys, values, chunk_tokens)
    num_chunks = keys.shape[2] // chunk_tokens
    source = saver.source(contiguous_kv(keys, values, chunk_tokens=chunk_tokens, num_chunks=num_chunks))

    def copy() -> npt.NDArray[np.uint8]:
        host = torch.empty(source.num_bytes, dtype=torch.uint8, pin_memory=keys.is_cuda)
        slices: npt.NDArray[np.uint8] = host.numpy()
        source.copy_into(slices.data)
        return slices.reshape(num_chunks, -1)

    return copy
