"""The catalog's counters, kept in it so that opening it counts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any

import lmdb

from objectcache.catalog.records import DamagedCatalogError

_META = Struct(">6Q?")
_META_KEY = b"counters"


@dataclass(frozen=True)
class Meta:
    """Counters. `dangling_chunks` are index entries of segments that are gone; `complete` is off while the catalog is
    being filled: it must be empty then, or it is discarded."""

    format: int
    next_id: int = 1
    segments: int = 0
    chunks: int = 0
    total_bytes: int = 0
    dangling_chunks: int = 0
    complete: bool = True


def load_meta(transaction: lmdb.Transaction[bytes], db: Any) -> Meta:
    """Raises DamagedCatalogError."""
    data = transaction.get(_META_KEY, db=db)
    if data is None:
        raise DamagedCatalogError("the catalog has lost its counters")
    if len(data) != _META.size:
        raise DamagedCatalogError(f"the catalog's counters are {len(data)} bytes, not {_META.size}")
    return Meta(*_META.unpack(data))


def save_meta(transaction: lmdb.Transaction[bytes], db: Any, meta: Meta) -> None:
    data = _META.pack(
        meta.format,
        meta.next_id,
        meta.segments,
        meta.chunks,
        meta.total_bytes,
        meta.dangling_chunks,
        meta.complete,
    )
    transaction.put(_META_KEY, data, db=db)
