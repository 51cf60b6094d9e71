"""Reading stored segments only to see whether they are what they say."""

from __future__ import annotations

from objectcache.errors import IntegrityError, ObjectNotFoundError
from objectcache.segment import SegmentReader
from objectcache.stores import Store


def is_damaged(store: Store, name: str) -> bool:
    """Whether the segment is gone, or any of its bytes is not what its digests say. Raises StoreError."""
    try:
        with store.open(name) as source:
            segment = SegmentReader.open(source, name)
            header = segment.header
            out = memoryview(bytearray(max(map(header.geometry.layer_bytes, range(len(header.layers))))))
            for position in range(len(header.layers)):
                size = header.geometry.layer_bytes(position)
                segment.read_chunks(position, 0, header.num_chunks, out[:size])
    except (IntegrityError, ObjectNotFoundError):
        return True
    return False
