"""vLLM's paged caches as a worker registers them, found by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from objectcache.cache.base import PartId
from objectcache.connectors.vllm.naming.identity import Identity
from objectcache.device import BlockLayer
from objectcache.errors import LayoutError


class PagedCaches:
    """The layers of this rank's parts. `device` is the one that all are on, `order` their numbers, ascending."""

    def __init__(self, identity: Identity, kv_caches: Mapping[str, Any], num_blocks: int) -> None:
        """`kv_caches` are tensors by vLLM's names. Raises LayoutError where they are not what the layout says."""
        self.layers: dict[tuple[PartId, int], BlockLayer] = {}
        self.number_of: dict[str, int] = {}
        """Of the layers, by vLLM's names."""
        for part in identity.parts:
            names = identity.groups[part.group].layer_names
            shard = identity.layout.shard(part.group, part.shard)
            if len(names) != len(shard.layers):
                raise LayoutError(f"group {part.group} has {len(names)} layers here, and {len(shard.layers)} stored")
            for name, layer, size in zip(names, shard.layers, shard.slice_bytes, strict=True):
                cache = kv_caches.get(name)
                if not isinstance(cache, torch.Tensor):
                    raise LayoutError(f"layer {name} has no paged cache of its own here")
                blocks = BlockLayer(cache, num_blocks)
                if blocks.slice_bytes != size:
                    raise LayoutError(f"a block of layer {name} has {blocks.slice_bytes} bytes, and {size} stored")
                self.layers[part, layer] = blocks
                self.number_of[name] = layer
        devices = {blocks.device for blocks in self.layers.values()}
        if len(devices) != 1:
            raise LayoutError(f"paged caches are on {sorted(map(str, devices))}: all must be on one device")
        self.device = devices.pop()
        self.order = tuple(sorted(set(self.number_of.values())))
        self._position = {layer: position for position, layer in enumerate(self.order)}

    def position(self, layer: int) -> int:
        """Of a layer among all that this rank has."""
        return self._position[layer]

    def layers_of(self, part: PartId) -> Sequence[int]:
        return [layer for held, layer in self.layers if held == part]
