"""What an engine does with a queue, in the shape of tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from objectcache.cache import PartId
from objectcache.keys import KeyChain
from objectcache.layout import KVGroup, KVLayout, KVShard
from objectcache.storing import ALL, StoreHandle, StoreOptions
from objectcache.testing.synthetic import flat_layout, slice_bytes_of

PART = PartId(0, 0)
LAYERS = 3
SLICE_BYTES = 5000
LAYOUT = flat_layout(LAYERS, SLICE_BYTES)
CHUNKS = 10
PAYLOAD_BYTES = CHUNKS * LAYERS * SLICE_BYTES
OPTIONS = StoreOptions(ALL, staging_bytes=16 << 20, segment_chunks=4)
WAIT_S = 60.0


def two_shards() -> KVLayout:
    shards = tuple(KVShard(index, (0, 1, 2), (SLICE_BYTES,) * LAYERS, (index,)) for index in range(2))
    return KVLayout((KVGroup("full", 16, shards),))


def layer_of(chain: KeyChain, layer: int, first: int, stop: int, part: PartId = PART) -> bytes:
    """Slices of chunks [first, stop), as `synthetic.retrieve_and_check` expects them."""
    return b"".join(slice_bytes_of(key, part, layer, SLICE_BYTES) for key in chain[first:stop])


def give(handle: StoreHandle, chain: KeyChain, part: PartId = PART, layers: Sequence[int] = range(LAYERS)) -> bool:
    """All of its layers; whether all were taken."""
    taken = [handle.layer(layer, layer_of(chain, layer, handle.first, handle.stop, part)) for layer in layers]
    return all(taken)


class HeldSource:
    """A layer that is not copied before `go` is set."""

    def __init__(self, data: bytes, go: threading.Event) -> None:
        self._data, self._go = data, go

    def copy_into(self, memory: memoryview) -> None:
        assert self._go.wait(WAIT_S)
        memory[:] = self._data
