"""Bodies of the KV sub-resources besides the descriptor: msgpack maps, versioned, validated where they are decoded."""

from objectcache.messages.control import Asked
from objectcache.messages.matching import MatchAnswer, MatchRequest, ReleaseRequest
from objectcache.messages.packing import MAX_MESSAGE_BYTES, MESSAGE_VERSION
from objectcache.messages.retrieving import (
    ANSWER_HEADER,
    MAX_ANSWER_HEADER_BYTES,
    CancelAnswer,
    CancelRequest,
    MatchAndRetrieveAnswer,
    MatchAndRetrieveRequest,
    RetrieveAnswer,
)
from objectcache.messages.sessions import (
    MAX_METADATA_BYTES,
    MAX_NIXL_STREAMS,
    NIXL_MEMORIES,
    NixlAnswer,
    NixlRequest,
    SessionAnswer,
    SessionRequest,
)
from objectcache.messages.storing import MAX_COMMIT, MAX_SEGMENT_BYTES, CommitRequest, StoreRequest
from objectcache.messages.windows import MAX_CORRECTIONS, WindowsBatch, WindowsRequest

__all__ = [
    "ANSWER_HEADER",
    "MAX_ANSWER_HEADER_BYTES",
    "MAX_COMMIT",
    "MAX_CORRECTIONS",
    "MAX_MESSAGE_BYTES",
    "MAX_METADATA_BYTES",
    "MAX_NIXL_STREAMS",
    "MAX_SEGMENT_BYTES",
    "MESSAGE_VERSION",
    "NIXL_MEMORIES",
    "Asked",
    "CancelAnswer",
    "CancelRequest",
    "CommitRequest",
    "MatchAndRetrieveAnswer",
    "MatchAndRetrieveRequest",
    "MatchAnswer",
    "MatchRequest",
    "NixlAnswer",
    "NixlRequest",
    "ReleaseRequest",
    "RetrieveAnswer",
    "SessionAnswer",
    "SessionRequest",
    "StoreRequest",
    "WindowsBatch",
    "WindowsRequest",
]
