"""What only people ask of a catalog: keys by how they begin, and when segments were last used."""

from __future__ import annotations

from objectcache.catalog.batch import TOUCH
from objectcache.catalog.catalog import Catalog
from objectcache.catalog.environment import CHUNKS, TOUCHED
from objectcache.catalog.reading import CatalogReading
from objectcache.catalog.records import SegmentRecord, unpack_id, unpack_place
from objectcache.catalog.view import CatalogView
from objectcache.keys import KEY_BYTES

Holders = list[tuple[SegmentRecord, int]]
"""Segments that hold a chunk, each with the chunk's index in it."""


def chunks_beginning(catalog: CatalogReading, digits: str, limit: int) -> dict[bytes, Holders]:
    """The first `limit` chunk keys whose lower-case hex begins with `digits`, with everything that holds each."""
    found: dict[bytes, Holders] = {}
    environment = catalog._environment
    with environment.read() as transaction:
        view = CatalogView(environment, transaction, catalog._records)
        cursor = transaction.cursor(environment.db(CHUNKS))
        if not cursor.set_range(bytes.fromhex(digits + "0" * (len(digits) % 2))):
            return found
        for entry, place in cursor:
            key = bytes(entry[:KEY_BYTES])
            if not key.hex().startswith(digits) or (len(found) == limit and key not in found):
                break
            id, index = unpack_place(place)
            record = view.segment(id)
            if record is not None:
                found.setdefault(key, []).append((record, index))
    return found


def chunk_holders(catalog: CatalogReading, key: bytes) -> Holders:
    """Everything that holds the chunk, of any part."""
    return chunks_beginning(catalog, key.hex(), 1).get(key, [])


def last_used_s(catalog: Catalog) -> dict[int, float]:
    """Segment id: when it was last used (Unix time), as far as this catalog's writer has written it down, or is it."""
    with catalog._environment.read() as transaction:
        cursor = transaction.cursor(catalog._environment.db(TOUCHED))
        times_s = {unpack_id(id): float(TOUCH.unpack(touched)[0]) for id, touched in cursor}
    return times_s | catalog._recency.waiting()
