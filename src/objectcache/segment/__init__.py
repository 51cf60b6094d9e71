"""The stored format of a segment: a run of consecutive chunks of one chain, one group, one shard, layer-major.

    header | layer 0: digest row, slices 0 … n-1 | layer 1: … | footer

The header is `MAGIC | u32 body length | msgpack body | digest`. The footer repeats the length and holds the digest of
each layer's row, so that a torn or truncated segment is recognised without anything else. Offsets come from
`layout.SegmentGeometry`, digests from `integrity`.
"""

from objectcache.segment.body import CommittedLayer, ReadsRanges, SegmentReader, SegmentWriter
from objectcache.segment.header import (
    FOOTER_MAGIC,
    FORMAT_VERSION,
    HEADER_MAGIC,
    HEADER_PREFIX_BYTES,
    MAX_CHUNKS,
    MAX_DEPTH,
    MAX_HEADER_BYTES,
    MAX_NAME_BYTES,
    SegmentHeader,
    decode_footer,
    decode_header,
    decoded_name,
    encode_footer,
    footer_bytes,
    header_length,
)

__all__ = [
    "FOOTER_MAGIC",
    "FORMAT_VERSION",
    "HEADER_MAGIC",
    "HEADER_PREFIX_BYTES",
    "MAX_CHUNKS",
    "MAX_DEPTH",
    "MAX_HEADER_BYTES",
    "MAX_NAME_BYTES",
    "CommittedLayer",
    "ReadsRanges",
    "SegmentHeader",
    "SegmentReader",
    "SegmentWriter",
    "decode_footer",
    "decode_header",
    "decoded_name",
    "encode_footer",
    "footer_bytes",
    "header_length",
]
