"""KV between host memory and an engine's cache on its device (torch, extra `device`).

`DeviceLoader` puts landed layers in their places, `DeviceSaver` takes computed ones out. Places are of the layouts that
engines have: `paged_kv`, `paged_pair`, `paged_latent` with a `BlockTable`, `contiguous_kv`, `contiguous_latent`; or
whole blocks whatever is in them, `BlockLayer` with a `block_table`.
`cuda_registrar` pins a cache's buffers: `cache.register_buffers(cuda_registrar)`.
"""

from objectcache.device.ahead import DeviceAhead
from objectcache.device.blocks import BlockLayer, HostBlocks, block_table
from objectcache.device.forms import SliceForm, SliceOrder
from objectcache.device.loading import DeviceLoader, DeviceRetrieval, Places, Spans
from objectcache.device.pinning import cuda_registrar
from objectcache.device.places import (
    ContiguousPlace,
    PagedLayer,
    PagedPlace,
    Place,
    contiguous_kv,
    contiguous_latent,
    paged_kv,
    paged_latent,
    paged_pair,
)
from objectcache.device.saving import DeviceLayerSource, DeviceSaver
from objectcache.device.tables import BlockTable

__all__ = [
    "BlockLayer",
    "BlockTable",
    "ContiguousPlace",
    "DeviceAhead",
    "DeviceLayerSource",
    "DeviceLoader",
    "DeviceRetrieval",
    "DeviceSaver",
    "HostBlocks",
    "PagedLayer",
    "PagedPlace",
    "Place",
    "Places",
    "SliceForm",
    "SliceOrder",
    "Spans",
    "block_table",
    "contiguous_kv",
    "contiguous_latent",
    "cuda_registrar",
    "paged_kv",
    "paged_latent",
    "paged_pair",
]
