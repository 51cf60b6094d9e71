"""New objects out of ranges of others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from objectcache.errors import ObjectChangedError
from objectcache.stores import ObjectInfo, ObjectReader, Store
from objectcache.stores.base import COPY_BYTES

Source = tuple[Store, str, str, int, int]
"""Store, name, etag, offset and length of a range."""


def copy_ranges(
    sources: Sequence[Source], store: Store, name: str, *, etag: str, digest: bool, **how: Any
) -> ObjectInfo:
    """An object of all `sources`, one after the other. `digest`: its etag is to be its MD5; otherwise `etag`.

    `how` are arguments of `Store.upload`. Raises ObjectNotFoundError, ObjectChangedError (a source has another etag),
    RangeError, StoreError.
    """
    md5 = hashlib.md5(usedforsecurity=False)
    total_bytes = sum(source[-1] for source in sources)
    with store.upload(name, size_bytes=total_bytes, **how) as upload:
        for source, source_name, source_etag, offset, length in sources:
            with source.open(source_name) as reader:
                if reader.info.etag != source_etag:
                    raise ObjectChangedError(f"{source_name!r} was replaced just now")
                reader.prefetch(offset, length)
                if not digest:
                    upload.write_from(reader, offset, length)
                    continue
                for piece in _pieces(reader, offset, length):
                    md5.update(piece)
                    upload.write(piece)
        return upload.publish(etag=md5.hexdigest() if digest else etag)


def _pieces(reader: ObjectReader, offset: int, length: int) -> Iterator[bytes]:
    for at in range(offset, offset + length, COPY_BYTES):
        yield reader.read(at, min(COPY_BYTES, offset + length - at))
