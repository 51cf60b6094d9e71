"""What all messages have in common: msgpack maps with a version."""

from __future__ import annotations

from typing import Any

import msgpack

from objectcache.descriptor import MAX_PARTS, FieldReader, unpack_map
from objectcache.errors import RequestError

MESSAGE_VERSION = 1
MAX_MESSAGE_BYTES = 64 << 20


def pack(**fields: Any) -> bytes:
    """A message of these fields."""
    data: bytes = msgpack.packb({"version": MESSAGE_VERSION, **fields})
    return data


def unpack(data: bytes, where: str) -> FieldReader:
    """The fields of a message, which errors call `where`. Raises RequestError for what is none of a known version."""
    fields = unpack_map(data, where, RequestError)
    version = fields.integer("version", 0, 1 << 31)
    if version != MESSAGE_VERSION:
        raise RequestError(f"{where}.version {version} is not known here; {MESSAGE_VERSION} is")
    return fields


def parts_of(fields: FieldReader, name: str) -> list[FieldReader]:
    """The fields of each part that field `name` lists. Raises RequestError."""
    return [FieldReader(part, f"{name}[{i}]", RequestError) for i, part in enumerate(fields.items(name, MAX_PARTS))]
