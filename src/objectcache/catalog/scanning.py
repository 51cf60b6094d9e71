"""What only people ask of a catalog: keys by how they begin, and when segments were last used."""

from __future__ import annotations

from objectcache.catalog.batch import TOUCH
from objectcache.catalog.catalog import Catalog
from objectcache.catalog.environment import CHUNKS, TOUCHED
from objectcache.catalog.reading import CatalogReading
from objectcache.catalog.records import SegmentRecord, split_entry, unpack_id
from objectcache.catalog.view import CatalogView

Holders = list[tuple[SegmentRecord, int]]
"""Segments that hold a chunk, each with the chunk's index in it."""


def chunks_beginning(catalog: CatalogReading, digits: str, limit: int) -> dict[bytes, Holders]:
    """The first `limit` chunk keys whose lower-case hex begins with `digits`, with everything that holds each."""
    found: dict[bytes, Holders] = {}
    environment = catalog._environment
    first = bytes.fromhex(digits + "0" * (len(digits) % 2))
    with environment.read() as transaction:
        view = CatalogView(environment, transaction, catalog._records)
        cursor = transaction.cursor(environment.db(CHUNKS))
        parts = list(cursor.iternext_nodup()) if cursor.first() else []
        for part in parts:
            there = cursor.set_range_dup(part, first)
            keys: set[bytes] = set()
            while there:
                key, id, index = split_entry(cursor.value())
                if not key.hex().startswith(digits) or (len(keys) == limit and key not in keys):
                    break
                record = view.segment(id)
                if record is not None:
                    keys.add(key)
                    found.setdefault(key, []).append((record, index))
                there = cursor.next_dup()
    return {key: found[key] for key in sorted(found)[:limit]}


def chunk_holders(catalog: CatalogReading, key: bytes) -> Holders:
    """Everything that holds the chunk, of any part."""
    return chunks_beginning(catalog, key.hex(), 1).get(key, [])


def last_used_s(catalog: Catalog) -> dict[int, float]:
    """Segment id: when it was last used (Unix time), as far as this catalog's writer has written it down, or is it."""
    with catalog._environment.read() as transaction:
        cursor = transaction.cursor(catalog._environment.db(TOUCHED))
        times_s = {unpack_id(id): float(TOUCH.unpack(touched)[0]) for id, touched in cursor}
    return times_s | catalog._recency.waiting()
