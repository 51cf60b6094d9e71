"""Writing one extent of the tier from what was delivered."""

from __future__ import annotations

from objectcache.descriptor import Versions
from objectcache.integrity import Buffer
from objectcache.layout import DeliveryGeometry
from objectcache.segment import SegmentHeader, SegmentWriter
from objectcache.stores.read_cache_extents import Extents, ExtentWrite
from objectcache.tier.names import encode_versions
from objectcache.tier.parts import TierPart, WantedExtent


def extent_header(
    namespace: bytes, part: TierPart, wanted: WantedExtent, layers: tuple[int, ...], versions: Versions
) -> SegmentHeader:
    """Of the file with `layers` of an extent, whose chunks are of `versions`."""
    shape = part.shape
    return SegmentHeader(
        name=encode_versions(versions),
        namespace=namespace,
        group=part.group,
        shard=part.shard,
        chunk_tokens=part.chunk_tokens,
        layers=layers,
        slice_bytes=tuple(shape.slice_bytes[shape.layers.index(layer)] for layer in layers),
        parent=wanted.parent,
        depth=wanted.depth,
        keys=wanted.keys,
    )


def write_extent(
    extents: Extents,
    writing: ExtentWrite,
    header: SegmentHeader,
    index: int,
    geometry: DeliveryGeometry,
    memory: memoryview,
    wanted: WantedExtent,
) -> bool:
    """The file of `header`, from `memory`, where the part at `index` lies as `geometry` says. False: given up."""
    at, good = 0, True

    def write(data: Buffer) -> None:
        nonlocal at, good
        view = memoryview(data)
        good = good and extents.write(writing, view, at)
        at += len(view)

    writer = SegmentWriter(header, write)
    for layer, size in zip(header.layers, header.slice_bytes, strict=True):
        start = geometry.offset(index, layer) + wanted.at * size
        writer.write_layer(memory[start : start + len(wanted.keys) * size])
        if not good:
            return False
    writer.finish()
    return good
