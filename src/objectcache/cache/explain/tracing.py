"""From a chunk's key back to the start of its prompt, by what segments say of their keys."""

from __future__ import annotations

from dataclasses import dataclass

from objectcache.cache.base import PartId, all_parts
from objectcache.cache.explain.stored import Stored
from objectcache.catalog.scanning import Holders
from objectcache.errors import IntegrityError, StoreError
from objectcache.keys import KeyChain, Namespace
from objectcache.segment import SegmentHeader


@dataclass(frozen=True)
class Hole:
    """Where the way back ends: at `chunk` (of the layout's `key_tokens`), which no part holds, or only the segment
    `unreadable`."""

    chunk: int
    key: bytes
    unreadable: str = ""


def trace(stored: Stored, namespace: Namespace, key: bytes, holders: Holders) -> KeyChain | Hole:
    """The whole chain that ends in `key`, at `layout.key_tokens` tokens a key. `holders` hold the chunk.

    Any part's segments do, as far as their chunks are the smallest: larger ones skip keys.
    """
    layout = namespace.layout
    parts = [part for part in all_parts(namespace) if layout.group(part.group).chunk_tokens == layout.key_tokens]
    record, index = holders[0]
    chunk = (record.depth + index + 1) * record.chunk_tokens // layout.key_tokens - 1
    pieces: list[bytes] = []
    while chunk >= 0:
        found = _reaching_back(stored, namespace, parts, key, chunk)
        if isinstance(found, Hole):
            return found
        pieces.append(found.keys[: chunk - found.depth + 1].data)
        key, chunk = found.parent, found.depth - 1
    return KeyChain(b"".join(reversed(pieces)))


def _reaching_back(
    stored: Stored, namespace: Namespace, parts: list[PartId], key: bytes, chunk: int
) -> SegmentHeader | Hole:
    """The header that holds `key` as chunk `chunk` and reaches back farthest."""
    held = [
        (record, index)
        for part in parts
        for record, index in stored.catalog.find(key, *part)
        if record.namespace == namespace.digest and record.depth + index == chunk
    ]
    unreadable = ""
    for record, index in sorted(held, key=lambda item: -item[1]):
        try:
            header = stored.header(record.name)
        except (IntegrityError, StoreError):
            unreadable = record.name
            continue
        if header.depth == record.depth and header.keys[index : index + 1].data == key:
            return header
        unreadable = record.name
    return Hole(chunk, key, unreadable)
