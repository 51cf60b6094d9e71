"""An object appears, is replaced, or goes: one change of the index, which also says what then belongs to nobody."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Lock

from objectcache.errors import ObjectChangedError, ObjectExistsError, ObjectNotFoundError, StoreUnavailableError
from objectcache.stores.base import ANY_ETAG
from objectcache.stores.rados.entry import INLINE, LOOSE, Entry, Loose, LooseState
from objectcache.stores.rados.index import Index
from objectcache.stores.rados.space import RadosSpace

_TRIES = 100


@dataclass(frozen=True, slots=True)
class Publication:
    """Where, under what conditions and with what an object appears."""

    name: str
    key: str
    if_absent: bool
    if_match: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class Claim:
    """An id whose data objects are this upload's. The index keeps `text` of it until they are published or removed."""

    id: str
    text: str


class Publisher:
    """Changes the index of one store. Thread-safe. `deleted` says that there is something to sweep."""

    def __init__(self, index: Index, space: RadosSpace) -> None:
        self._index, self._space = index, space
        self._lock = Lock()
        self._deleted = False

    def take_deleted(self) -> bool:
        """Whether data objects were left behind since the last time this was asked."""
        with self._lock:
            deleted, self._deleted = self._deleted, False
            return deleted

    def publish(self, how: Publication, entry: Entry, inline: bytes, claim: Claim | None, reserved_bytes: int) -> None:
        """`claim` is of the entry's id, if it has one.

        Raises ObjectExistsError, ObjectChangedError, ObjectNotFoundError as `ObjectUpload.publish` says.
        """
        shard, doing = self._index.shard_of(how.key), f"publishing {how.name!r}"
        keys = {how.key: entry.encode().encode("ascii")}
        gone = [LOOSE + claim.id] if claim else []
        if inline:
            keys[INLINE + how.key] = inline
        else:
            gone.append(INLINE + how.key)
        # Most names are new. Otherwise the index says so, and nothing is done.
        replaced = self._to_replace(how) if how.if_match else ""
        for _ in range(_TRIES):
            before, more_keys = self._left_behind(how.key, replaced)
            where = {how.key: replaced}
            if claim:
                where[LOOSE + claim.id] = claim.text
            with self._space.changing() as changed:
                if self._index.commit(shard, where, keys | more_keys, gone, doing=doing):
                    changed(how.key, entry.size_bytes - (before.size_bytes if before else 0), reserved_bytes)
                    self._note(more_keys)
                    return
            if claim and self._index.text_of(shard, LOOSE + claim.id) != claim.text:
                raise StoreUnavailableError(f"{doing} failed: nothing was heard of it for so long that it was given up")
            replaced = self._to_replace(how)
        raise StoreUnavailableError(f"{doing} failed: it is replaced all the time")

    def delete(self, name: str, key: str) -> None:
        """No error where it is not there."""
        shard = self._index.shard_of(key)
        for _ in range(_TRIES):
            text = self._index.text_of(shard, key)
            if not text:
                return
            before, keys = self._left_behind(key, text)
            with self._space.changing() as changed:
                if self._index.commit(shard, {key: text}, keys, [key, INLINE + key], doing=f"deleting {name!r}"):
                    changed(key, -before.size_bytes if before else 0, 0)
                    self._note(keys)
                    return
        raise StoreUnavailableError(f"deleting {name!r} failed: it is replaced all the time")

    def _to_replace(self, how: Publication) -> str:
        """The entry that is there and may be replaced; "": none is."""
        text = self._index.text_of(self._index.shard_of(how.key), how.key)
        if text and how.if_absent:
            raise ObjectExistsError(f"{how.name!r} is stored already")
        if how.if_match:
            if not text:
                raise ObjectNotFoundError(f"{how.name!r} is not stored")
            etag = Entry.decode(how.key, text.encode()).etag
            if how.if_match not in (ANY_ETAG, etag):
                raise ObjectChangedError(f"{how.name!r} has the etag {etag}, not {how.if_match}")
        return text

    def _left_behind(self, key: str, text: str) -> tuple[Entry | None, dict[str, bytes]]:
        """The entry that goes, and what the index is to say of its data objects."""
        if not text:
            return None, {}
        before = Entry.decode(key, text.encode())
        if not before.id:
            return before, {}
        loose = Loose(LooseState.DELETED, int(time.time()), before.stripes)
        return before, {LOOSE + before.id: loose.encode().encode("ascii")}

    def _note(self, left_behind: dict[str, bytes]) -> None:
        if left_behind:
            with self._lock:
                self._deleted = True
