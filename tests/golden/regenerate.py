"""Writes the golden files: `python -m tests.golden.regenerate`. Read README.md beside this file first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from objectcache.keys import Namespace, chain_keys
from objectcache.layout import KVGroup, KVLayout, KVShard
from objectcache.segment import SegmentHeader
from tests.catalog.golden import golden_record, golden_snapshot
from tests.golden.wire import DESCRIPTOR, frames, messages
from tests.segments import encode

FOLDER = Path(__file__).parent

LAYOUT = KVLayout(
    (
        KVGroup("first", 4, (KVShard(0, (1,), (8,)),)),
        KVGroup("second", 8, (KVShard(0, (0,), (8,), (0,)), KVShard(1, (2, 5), (48, 600), (1, 2)))),
    )
)
NAMESPACE = Namespace(model="sha256:golden", layout=LAYOUT, kv_dtype="bfloat16", extra={"é": "ü"})
CHAIN = chain_keys(NAMESPACE, range(100, 132)).coarsen(2)


def layer_data(layer: int, slice_bytes: int, first: int, stop: int) -> bytes:
    """Compressible, different for every slice, and simple enough to write down elsewhere."""
    return b"".join(bytes([layer, chunk]) * (slice_bytes // 2) for chunk in range(first, stop))


def segment_header() -> SegmentHeader:
    return SegmentHeader.for_layout(
        LAYOUT,
        name="segments/golden/00000000000000000007",
        namespace=NAMESPACE.digest,
        group=1,
        shard=1,
        chain=CHAIN,
        first=1,
        stop=4,
    )


def segment() -> bytes:
    """Three chunks of two layers, from the middle of a chain."""
    header = segment_header()
    layers = zip(header.layers, header.slice_bytes, strict=True)
    return encode(header, [layer_data(layer, size, 1, 4) for layer, size in layers])[0]


FILES: dict[str, Callable[[], bytes]] = {
    "segment.bin": segment,
    "commit_record.bin": lambda: golden_record(segment_header()).encoded,
    "snapshot.bin": lambda: golden_snapshot(segment_header()),
    "descriptor.bin": DESCRIPTOR.encode,
    "messages.bin": messages,
    "frames.bin": frames,
}


def main() -> None:
    for name, build in FILES.items():
        (FOLDER / name).write_bytes(build())


if __name__ == "__main__":
    main()
