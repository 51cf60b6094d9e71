"""What there is to say about a cache, as plain data that survives JSON.

Keys and digests are the first 16 hex digits: enough to name a chunk, too few to ask for its KV or to guess at a
tenant's keys. Tokens and chunks are counted from the start of the prompt; ranges exclude their end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """`tokens` are those of the part that holds most: what is stored twice counts twice. `layout` is in words.

    `last_used_s` is Unix time, None where nobody has written it down. `problem` says why nothing of it can match.
    `median_chunks` are those of a segment; `ranges_4k` is how many segments 4,096 tokens are in, on average, in the
    part where they are in most.
    """

    digest: str
    model: str = ""
    kv_dtype: str = ""
    layout: str = ""
    epoch: int = 0
    adapter: str = ""
    salted: bool = False
    segments: int = 0
    chunks: int = 0
    tokens: int = 0
    total_bytes: int = 0
    last_used_s: float | None = None
    problem: str = ""
    median_chunks: float = 0.0
    ranges_4k: float = 0.0


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A visible segment: chunks [first_chunk, stop_chunk) of a chain, counted in its group's chunks."""

    name: str
    namespace: str
    group: str
    shard: int
    first_chunk: int
    stop_chunk: int
    first_token: int
    stop_token: int
    total_bytes: int
    parent: str
    leaf: str
    last_used_s: float | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What is stored. `segments` only where asked for, oldest first, and `segments_left_out` more beyond the limit."""

    namespaces: tuple[NamespaceInfo, ...]
    segments: tuple[SegmentInfo, ...]
    segments_left_out: int
    total_segments: int
    total_chunks: int
    total_bytes: int
    store_used_bytes: int
    median_chunks: float = 0.0


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """`layers` and `slice_bytes` are in words. Which ranks hold a shard is not written down."""

    index: int
    layers: str
    slice_bytes: str


@dataclass(frozen=True, slots=True)
class GroupInfo:
    name: str
    rule: str
    chunk_tokens: int
    window_tokens: int
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True, slots=True)
class NamespaceInspection:
    """`fields` are all but the layout, which is `groups`. A salt is told to be there, never what it is."""

    info: NamespaceInfo
    fields: dict[str, str] = field(default_factory=dict)
    groups: tuple[GroupInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """Where a layer's digest row and slices lie in the object, in bytes."""

    layer: int
    slice_bytes: int
    row_offset: int
    row_bytes: int
    data_offset: int
    layer_bytes: int


@dataclass(frozen=True, slots=True)
class SegmentInspection:
    """A segment's own header, and the object it is in. `problem` says what header, footer or size have against it.

    `visible`: a log record commits it. `object_bytes` and `modified_s` (Unix time) are None where the object is gone.
    """

    segment: SegmentInfo
    visible: bool
    problem: str
    object_bytes: int | None
    modified_s: float | None
    header_bytes: int
    chunk_tokens: int
    layers: tuple[LayerInfo, ...]


@dataclass(frozen=True, slots=True)
class LayerVerdict:
    """Whether every slice of a layer is what the digests say; otherwise `problem` tells."""

    read_bytes: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A segment that holds the chunk, at `index` within it."""

    segment: str
    group: str
    shard: int
    index: int


@dataclass(frozen=True, slots=True)
class StoredRun:
    """Chunks [first_chunk, stop_chunk) of the chain are in `segment`."""

    segment: str
    first_chunk: int
    stop_chunk: int


@dataclass(frozen=True, slots=True)
class PartChain:
    """What holds the chain up to the chunk, in one part. `missing_chunk` is the last one that is not stored: what
    lies before it cannot be told from the chunk's key."""

    group: str
    shard: int
    runs: tuple[StoredRun, ...]
    missing_chunk: int | None = None
    missing_key: str = ""


@dataclass(frozen=True, slots=True)
class KeyInspection:
    """A stored chunk. It ends at token `stop_token` of its prompt."""

    key: str
    namespace: str
    stop_token: int
    holders: tuple[Holder, ...]
    chains: tuple[PartChain, ...]


Inspection = NamespaceInspection | SegmentInspection | KeyInspection


class Reason(StrEnum):
    """Why a match ends where it does."""

    ALL_MATCHED = "all-matched"
    TOO_SHORT = "too-short"
    NAMESPACE_UNKNOWN = "namespace-unknown"
    KEY_UNKNOWN = "key-unknown"
    NOTHING_STORED = "nothing-stored"
    UNCOMMITTED = "uncommitted"
    SHARD_LACKS = "shard-lacks"
    GAP = "gap"
    RULE = "rule"
    BRANCH = "branch"
    ENDS = "ends"


@dataclass(frozen=True, slots=True)
class PartState:
    """What one shard of one group holds of the prompt. `place` says which part of the model it is, `stored` are ranges
    of chunks, the first few of them; `alone_tokens` is what would match if only this part counted."""

    group: str
    rule: str
    shard: int
    place: str
    chunk_tokens: int
    stored: tuple[tuple[int, ...], ...]
    alone_tokens: int


@dataclass(frozen=True, slots=True)
class FieldDifference:
    field: str
    asked: str
    stored: str


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another namespace that is stored here. `matched_tokens` is what the same prompt matches there, if that may be
    told."""

    namespace: str
    differences: tuple[FieldDifference, ...]
    matched_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a prompt matches as far as it does, and no farther.

    `matched_tokens` and `asked_tokens` are None where a key alone does not tell. `chunk` (in chunks of `chunk_tokens`)
    is the one that the match stops at. `sentence` is the whole answer for a person, `next_step` what can be done.
    """

    reason: Reason
    sentence: str
    asked_tokens: int | None
    matched_tokens: int | None
    namespace: str
    chunk: int | None = None
    chunk_tokens: int | None = None
    next_step: str = ""
    notes: tuple[str, ...] = ()
    parts: tuple[PartState, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
