"""Shapes and byte sizes: of KV, of segments, of deliveries. The only place that does this arithmetic; no data here."""

from objectcache.layout.delivered import DeliveryGeometry, PartShape, delivery_geometry
from objectcache.layout.model import (
    MAX_CHUNK_TOKENS,
    MAX_GROUPS,
    MAX_LAYERS,
    MAX_SHARDS,
    MAX_SLICE_BYTES,
    KVGroup,
    KVLayout,
    KVShard,
    MatchRule,
    attention_group,
    pipeline_stages,
)
from objectcache.layout.sections import MAX_SECTIONS, SECTION_BYTES, Chunks, Section, Sections
from objectcache.layout.stored import (
    ALIGNMENT_BYTES,
    DIGEST_BYTES,
    PIECE_BYTES,
    LayerRow,
    SegmentGeometry,
    Span,
    align_up,
    piece_chunks,
    segment_geometry,
)

__all__ = [
    "ALIGNMENT_BYTES",
    "DIGEST_BYTES",
    "MAX_CHUNK_TOKENS",
    "MAX_GROUPS",
    "MAX_LAYERS",
    "MAX_SECTIONS",
    "MAX_SHARDS",
    "MAX_SLICE_BYTES",
    "PIECE_BYTES",
    "SECTION_BYTES",
    "Chunks",
    "DeliveryGeometry",
    "KVGroup",
    "KVLayout",
    "KVShard",
    "LayerRow",
    "MatchRule",
    "PartShape",
    "Section",
    "Sections",
    "SegmentGeometry",
    "Span",
    "align_up",
    "attention_group",
    "delivery_geometry",
    "piece_chunks",
    "pipeline_stages",
    "segment_geometry",
]
