"""Models on CUDA devices: KV moves beside their compute (`objectcache.device`). On the CPU nothing has to move."""

from __future__ import annotations

from functools import cache

import torch

from objectcache.cache.retrieval import Retrieval
from objectcache.connectors.transformers.slices import KVShape, write_slices
from objectcache.device import DeviceLoader, DeviceRetrieval, DeviceSaver, contiguous_kv
from objectcache.errors import DeliveryError
from objectcache.storing import LayerSource


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


class _HostLayer:
    """K and V of a layer in host memory."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, chunk_tokens: int) -> None:
        self._keys, self._values = keys, values
        self._chunk_tokens = chunk_tokens

    def copy_into(self, memory: memoryview) -> None:
        write_slices(self._keys, self._values, self._chunk_tokens, memory)


def layer_source(keys: torch.Tensor, values: torch.Tensor, chunk_tokens: int) -> LayerSource:
    """K and V, [1, kv_heads, n * chunk_tokens, head_dim] each, as they are when what is queued by now is computed.

    They must not be written to afterwards.
    """
    saver = saver_of(keys.device)
    if saver is None:
        return _HostLayer(keys, values, chunk_tokens)
    num_chunks = keys.shape[2] // chunk_tokens
    return saver.source(contiguous_kv(keys, values, chunk_tokens=chunk_tokens, num_chunks=num_chunks))
