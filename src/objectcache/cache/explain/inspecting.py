"""One thing looked at closely: a chunk, a segment or a namespace."""

from __future__ import annotations

from collections.abc import Mapping

from objectcache.cache.base import PartId
from objectcache.cache.explain.listing import group_name, list_stored, segment_info
from objectcache.cache.explain.results import (
    Holder,
    Inspection,
    KeyInspection,
    LayerInfo,
    LayerVerdict,
    NamespaceInspection,
    PartChain,
    SegmentInfo,
    SegmentInspection,
    StoredRun,
)
from objectcache.cache.explain.stored import Stored, check_digits, read_header
from objectcache.cache.explain.words import group_info, namespace_fields, short
from objectcache.catalog import SegmentRecord
from objectcache.catalog.scanning import Holders, chunks_beginning
from objectcache.errors import IntegrityError, KeyNotFoundError, ObjectNotFoundError, RequestError
from objectcache.keys import Namespace
from objectcache.layout import piece_chunks
from objectcache.names import SEGMENT_PREFIX, parse_segment_name
from objectcache.segment import CommittedLayer, SegmentHeader, SegmentReader
from objectcache.stores import ObjectInfo, ObjectReader

READ_BYTES = 64 << 20
"""How much of a layer is verified at once."""


def inspect(stored: Stored, used: Mapping[str, float], what: str) -> Inspection:
    """`what` is a segment's name, or how a namespace's digest or a chunk key begins (8 hex digits or more).

    Raises RequestError for anything else and for digits that mean several things, KeyNotFoundError.
    """
    if "/" in what:
        return inspect_segment(stored, used, segment_named(what))
    digits = check_digits(what)
    digests = stored.digests_beginning(digits)
    keys = chunks_beginning(stored.catalog, digits, 3)
    if len(digests) + len(keys) > 1:
        found = [f"namespace {short(digest)}" for digest in digests] + [f"chunk {short(key)}" for key in keys]
        raise RequestError(f"{digits} is how several begin: {', '.join(found)}, …: give more digits")
    if digests:
        return inspect_namespace(stored, used, digests[0])
    if keys:
        ((key, holders),) = keys.items()
        return inspect_key(stored, key, holders)
    raise KeyNotFoundError(
        f"neither a namespace nor a stored chunk begins with {digits}: `objectcache ls` shows what is stored, "
        f"`objectcache why --key {digits}` looks for what became of it"
    )


def segment_named(what: str) -> str:
    """A segment's name, whether or not it was given with its prefix. Raises InvalidObjectNameError."""
    name = what if what.startswith(SEGMENT_PREFIX) else SEGMENT_PREFIX + what
    parse_segment_name(name)
    return name


# -- a namespace --------------------------------------------------------------------------------------


def inspect_namespace(stored: Stored, used: Mapping[str, float], digest: bytes) -> NamespaceInspection:
    (info,) = list_stored(stored, used, digest.hex(), False, 0).namespaces
    namespace = stored.namespaces()[digest]
    if namespace is None:
        return NamespaceInspection(info)
    return NamespaceInspection(info, namespace_fields(namespace), tuple(map(group_info, namespace.layout.groups)))


# -- a chunk ------------------------------------------------------------------------------------------


def inspect_key(stored: Stored, key: bytes, holders: Holders) -> KeyInspection:
    """`holders` are all segments that hold it, at least one. A key is of one namespace and one place in one prompt."""
    first, index = holders[0]
    known = stored.namespaces().get(first.namespace)
    parts = sorted({PartId(record.group, record.shard) for record, _ in holders})
    return KeyInspection(
        key=short(key),
        namespace=short(first.namespace),
        stop_token=(first.depth + index + 1) * first.chunk_tokens,
        holders=tuple(Holder(record.name, group_name(known, record.group), record.shard, at) for record, at in holders),
        chains=tuple(_chain_before(stored, known, key, part, holders) for part in parts),
    )


def _chain_before(stored: Stored, namespace: Namespace | None, key: bytes, part: PartId, holders: Holders) -> PartChain:
    """Back from the chunk through parents, each time by the segment that reaches back farthest."""
    found = [(record, index) for record, index in holders if (record.group, record.shard) == part]
    chunk = found[0][0].depth + found[0][1]
    runs: list[StoredRun] = []
    with stored.catalog.view() as view:
        while chunk >= 0:
            held = [(record, index) for record, index in found if record.depth + index == chunk]
            if not held:
                break
            record, _ = max(held, key=lambda item: item[1])
            runs.append(StoredRun(record.name, record.depth, chunk + 1))
            key, chunk = record.parent, record.depth - 1
            found = view.find(key, *part)
    missing = (chunk, short(key)) if chunk >= 0 else (None, "")
    return PartChain(group_name(namespace, part.group), part.shard, tuple(runs[::-1]), *missing)


# -- a segment ----------------------------------------------------------------------------------------


def inspect_segment(stored: Stored, used: Mapping[str, float], name: str) -> SegmentInspection:
    """Raises KeyNotFoundError when neither the catalog nor the store has it."""
    record = stored.catalog.segment_named(name)
    header: SegmentHeader | None = None
    info: ObjectInfo | None = None
    try:
        with stored.store.open(name) as reader:
            info = reader.info
            header = read_header(reader)
            problem = _problem(SegmentReader.open(reader, name), record, info)
    except ObjectNotFoundError as error:
        if record is None:
            raise KeyNotFoundError(
                f"there is no segment {name} here: `objectcache ls --segments` lists them"
            ) from error
        problem = "the object is gone from the store, though no log record removes it"
    except IntegrityError as error:
        problem = str(error)
    said = record or header
    if said is None:
        raise IntegrityError(f"object {name} is no segment, and no log record commits it: {problem}")
    return _inspection(_segment(stored, used, said), said, record is not None, problem, info)


def _segment(stored: Stored, used: Mapping[str, float], said: SegmentRecord | SegmentHeader) -> SegmentInfo:
    return segment_info(said, stored.namespaces().get(said.namespace), used.get(said.name))


def _problem(reader: SegmentReader, record: SegmentRecord | None, info: ObjectInfo) -> str:
    header = reader.header
    if info.size_bytes != header.total_bytes:
        return f"the object has {info.size_bytes} bytes, its header says {header.total_bytes}"
    if record is None:
        return ""
    committed = SegmentRecord.of(record.id, header, reader.row_digests)
    return "" if committed == record else "its header or footer is not what the log record commits"


def _inspection(
    segment: SegmentInfo, said: SegmentRecord | SegmentHeader, visible: bool, problem: str, info: ObjectInfo | None
) -> SegmentInspection:
    geometry = said.geometry
    return SegmentInspection(
        segment=segment,
        visible=visible,
        problem=problem,
        object_bytes=info.size_bytes if info else None,
        modified_s=info.modified_s if info else None,
        header_bytes=geometry.header_bytes,
        chunk_tokens=said.chunk_tokens,
        layers=tuple(
            LayerInfo(
                layer=layer,
                slice_bytes=said.slice_bytes[position],
                row_offset=geometry.row_offset(position),
                row_bytes=geometry.rows[position].row_bytes,
                data_offset=geometry.data_offsets[position],
                layer_bytes=geometry.layer_bytes(position),
            )
            for position, layer in enumerate(said.layers)
        ),
    )


def verify_layer(stored: Stored, name: str, position: int) -> LayerVerdict:
    """Read the layer at `position` whole and check every digest: against the log record's where the segment is
    committed, otherwise against its own footer's. Raises RequestError for a layer that it does not have, StoreError.
    """
    record = stored.catalog.segment_named(name)
    with stored.store.open(name) as source:
        try:
            reader = SegmentReader.open(source, name)
            header = reader.header
            digests = record.row_digests if record else reader.row_digests
            if not 0 <= position < len(header.layers) == len(digests):
                raise RequestError(f"segment {name} has {len(header.layers)} layers, so none at position {position}")
            layer = CommittedLayer(header.geometry, position, header.binding(position), header.leaf, digests[position])
            return LayerVerdict(_verify(layer, source, header))
        except IntegrityError as error:
            return LayerVerdict(0, str(error))


def _verify(layer: CommittedLayer, source: ObjectReader, header: SegmentHeader) -> int:
    """Bytes read. Raises IntegrityError."""
    row, size = layer.read_row(source), header.slice_bytes[layer.position]
    pieces = piece_chunks(size)
    step = max(1, READ_BYTES // (size * pieces)) * pieces
    buffer = memoryview(bytearray(min(step, header.num_chunks) * size))
    for first in range(0, header.num_chunks, step):
        stop = min(header.num_chunks, first + step)
        layer.read_chunks(source, first, stop, header.keys[first:stop], buffer[: (stop - first) * size], row)
    return len(row) + header.geometry.layer_bytes(layer.position)
