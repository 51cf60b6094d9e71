"""ObjectCache: prefix KV in object storage, delivered layer by layer.

```python
import objectcache

with objectcache.open("http://gateway:9000/kvcache") as cache:
    chain = objectcache.chain_keys(namespace, token_ids)
    match = cache.match(namespace, chain)
    with cache.retrieve(match) as retrieval:
        for unit in retrieval:  # layers, in the order the model consumes them, each as it lands
            ...
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from objectcache.lazily import exports

if TYPE_CHECKING:
    from objectcache.cache import (
        CHUNKWISE,
        KVCache,
        LayerGroup,
        Match,
        PartId,
        Retrieval,
        RetrieveOptions,
        SegmentUpload,
        UploadTicket,
    )
    from objectcache.cache.tiering import TierOptions
    from objectcache.client import ClientOptions
    from objectcache.errors import ObjectCacheError
    from objectcache.keys import KeyChain, Namespace, chain_keys, keys_from_block_hashes, salt_digest
    from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule
    from objectcache.opening import open_cache as open  # noqa: A004 - `objectcache.open(url)` is the point

__version__ = "0.1.0"

__all__ = [
    "CHUNKWISE",
    "ClientOptions",
    "KVCache",
    "KVGroup",
    "KVLayout",
    "KVShard",
    "KeyChain",
    "LayerGroup",
    "Match",
    "MatchRule",
    "Namespace",
    "ObjectCacheError",
    "PartId",
    "Retrieval",
    "RetrieveOptions",
    "SegmentUpload",
    "TierOptions",
    "UploadTicket",
    "__version__",
    "chain_keys",
    "keys_from_block_hashes",
    "open",
    "salt_digest",
]

_HOMES = {
    "objectcache.cache": (
        "CHUNKWISE",
        "KVCache",
        "LayerGroup",
        "Match",
        "PartId",
        "Retrieval",
        "RetrieveOptions",
        "SegmentUpload",
        "UploadTicket",
    ),
    "objectcache.cache.tiering": ("TierOptions",),
    "objectcache.client": ("ClientOptions",),
    "objectcache.errors": ("ObjectCacheError",),
    "objectcache.keys": ("KeyChain", "Namespace", "chain_keys", "keys_from_block_hashes", "salt_digest"),
    "objectcache.layout": ("KVGroup", "KVLayout", "KVShard", "MatchRule"),
}

__getattr__ = exports(
    "objectcache",
    {name: home for home, names in _HOMES.items() for name in names} | {"open": "objectcache.opening:open_cache"},
)
