"""Reading stored segments only to see whether they are what they say."""

from __future__ import annotations

from objectcache.errors import IntegrityError, ObjectNotFoundError
from objectcache.segment import SegmentReader
from objectcache.stores import Store


def is_damaged(store: Store, name: str) -> bool:
    """Whether the segment is gone, is of another size, or has bytes that are not what its digests say.

    Copies that are nearer than the segment are dropped first: they may be damaged where it is not. Raises StoreError.
    """
    store.discard(name)
    try:
        with store.open(name) as source:
            segment = SegmentReader.open(source, name)
            segment.verify()
            # Readers expect just the committed size: stores that are far refuse to read an object of another.
            return source.info.size_bytes != segment.header.total_bytes
    except (IntegrityError, ObjectNotFoundError):
        return True
