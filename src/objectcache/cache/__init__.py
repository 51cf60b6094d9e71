"""The core: match, store, retrieve, evict."""

from objectcache.cache.base import (
    CHUNKWISE,
    ForeignUpload,
    KVCache,
    Lease,
    Match,
    MatchedPart,
    PartId,
    RetrieveOptions,
    SegmentUpload,
    UploadTicket,
)
from objectcache.cache.retrieval import LayerGroup, Retrieval

__all__ = [
    "CHUNKWISE",
    "ForeignUpload",
    "KVCache",
    "LayerGroup",
    "Lease",
    "Match",
    "MatchedPart",
    "PartId",
    "Retrieval",
    "RetrieveOptions",
    "SegmentUpload",
    "UploadTicket",
]
