"""What the index says of an object, as it is stored: a line of ASCII, which librados can compare.

Beside the entries the index has two kinds of keys, which sort before all names since names have no control characters:

    \\x01ID       data objects of that ID may be there though no entry names them (`Loose`)
    \\x02NAME     the bytes of a small object
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

from objectcache.errors import StoreUnavailableError
from objectcache.stores.base import ObjectInfo

LOOSE, INLINE = "\x01", "\x02"
BEFORE_NAMES = "\x1f"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """`id` names the data objects, each of `stripe_bytes` but the last; "": the bytes are in the index itself."""

    size_bytes: int
    modified_ns: int
    etag: str
    id: str = ""
    stripe_bytes: int = 0
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def stripes(self) -> int:
        return -(-self.size_bytes // self.stripe_bytes) if self.id else 0

    def encode(self) -> str:
        fields = [_VERSION, self.size_bytes, self.modified_ns, self.etag, self.id, self.stripe_bytes, self.metadata]
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def decode(cls, key: str, text: bytes) -> Entry:
        """Raises StoreUnavailableError for what this version does not know."""
        try:
            version, size_bytes, modified_ns, etag, id, stripe_bytes, metadata = json.loads(text)
        except ValueError as error:
            raise StoreUnavailableError(f"the index says of {key!r} what cannot be read") from error
        if version != _VERSION:
            raise StoreUnavailableError(f"{key!r} was stored by another version of this package: {version}")
        return cls(size_bytes, modified_ns, etag, id, stripe_bytes, metadata)

    def info(self, name: str, *, metadata: bool = True) -> ObjectInfo:
        return ObjectInfo(name, self.size_bytes, self.modified_ns / 1e9, self.etag, self.metadata if metadata else {})


class LooseState(StrEnum):
    WRITING = "writing"
    """Of an upload that is under way, or was when its process died."""
    DELETED = "deleted"
    """Of an object that was deleted or replaced: those who have it open may go on for a while."""
    SWEEPING = "sweeping"
    """Being removed; whoever wrote them must not publish them any more."""


@dataclass(frozen=True, slots=True)
class Loose:
    """Data objects that no entry names. `since_s` is Unix time; `stripes` is how many there may be, 0 if not known."""

    state: LooseState
    since_s: int
    stripes: int

    def encode(self) -> str:
        return json.dumps([_VERSION, self.state.value, self.since_s, self.stripes], separators=(",", ":"))

    @classmethod
    def decode(cls, text: bytes) -> Loose:
        """Raises ValueError."""
        version, state, since_s, stripes = json.loads(text)
        if version != _VERSION:
            raise ValueError(f"version {version}")
        return cls(LooseState(state), since_s, stripes)


def first_id(key: str) -> str:
    """The id of the first object under a name, where it is made `if_absent`: readers can ask for it unseen."""
    return "f" + blake2b(key.encode(), digest_size=16).hexdigest()


def stripe_name(id: str, number: int) -> str:
    return f"{id}.{number:x}"
