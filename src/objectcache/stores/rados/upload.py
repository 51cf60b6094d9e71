"""Writing an object to RADOS: data objects as they fill, several at a time, and an entry in the index at the end."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace

from objectcache.errors import StoreError, StoreUnavailableError
from objectcache.integrity import Buffer
from objectcache.stores.base import ObjectInfo, ObjectUpload, check_metadata
from objectcache.stores.rados.entry import LOOSE, Entry, Loose, LooseState, first_id
from objectcache.stores.rados.index import Index
from objectcache.stores.rados.publishing import Claim, Publication, Publisher
from objectcache.stores.rados.space import RadosSpace
from objectcache.stores.rados.stripes import Stripes
from objectcache.stores.rados.sweeping import SweepTiming, remove_claimed, remove_unclaimed

_log = logging.getLogger(__name__)

WRITTEN_AT_ONCE = 4
"""Data objects under way of one upload: its memory."""


class RadosUpload(ObjectUpload):
    """Nothing of it is seen before the index has its entry. `patience_s` is how long one data object may take."""

    def __init__(
        self,
        how: Publication,
        index: Index,
        stripes: Stripes,
        publisher: Publisher,
        space: RadosSpace,
        timing: SweepTiming,
        *,
        inline_bytes: int,
        stripe_bytes: int,
        patience_s: float,
        size_bytes: int,
    ) -> None:
        self._how, self._index, self._stripes = how, index, stripes
        self._publisher, self._space, self._timing = publisher, space, timing
        self._inline_bytes, self._stripe_bytes, self._patience_s = inline_bytes, stripe_bytes, patience_s
        space.reserve(size_bytes)
        self._reserved_bytes = size_bytes
        self._written_bytes = 0
        self._buffer = bytearray()
        self._sent = 0
        self._writes: deque[Future[None]] = deque()
        self._claim: Claim | None = None
        self._heard_s = 0.0
        self._ended = False

    def write(self, data: Buffer) -> None:
        self._check_running()
        view = memoryview(data)
        if not view.nbytes:
            return
        rest = view.cast("B")
        try:
            more_bytes = self._written_bytes + rest.nbytes - self._reserved_bytes
            if more_bytes > 0:
                self._space.reserve(more_bytes)
                self._reserved_bytes += more_bytes
            self._written_bytes += rest.nbytes
            while rest:
                if len(self._buffer) == self._stripe_bytes:
                    self._send_buffer()
                room = self._stripe_bytes - len(self._buffer)
                self._buffer += rest[:room]
                rest = rest[room:]
        except BaseException:
            self.abort()
            raise

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        self._how = replace(self._how, metadata=dict(check_metadata({**self._how.metadata, **metadata})))

    def publish(self, *, etag: str = "") -> ObjectInfo:
        self._check_running()
        try:
            entry = self._finish(etag)
            inline = bytes(self._buffer) if self._claim is None else b""
            self._publisher.publish(self._how, entry, inline, self._claim, self._reserved_bytes)
        except BaseException:
            self.abort()
            raise
        self._ended = True
        self._buffer = bytearray()
        return entry.info(self._how.name)

    def abort(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._buffer = bytearray()
        self._space.settle(self._reserved_bytes)
        if self._claim is None:
            return
        try:
            self._settle_writes()
            shard = self._index.shard_of(self._how.key)
            key, text = LOOSE + self._claim.id, self._claim.text
            if not remove_claimed(self._index, self._stripes, shard, key, text, self._sent):
                remove_unclaimed(self._index, self._stripes, self._how.key, self._claim.id)
        except StoreError as error:
            _log.warning("what the upload of %r wrote is left for a sweep: %s", self._how.name, error)

    def _check_running(self) -> None:
        if self._ended:
            raise StoreError(f"the upload of {self._how.name!r} has ended")

    def _finish(self, etag: str) -> Entry:
        """All bytes are stored but those that the index will hold."""
        now_ns = time.time_ns()
        etag = etag or f"{now_ns:x}-{secrets.token_hex(4)}"
        size_bytes, metadata = self._written_bytes, self._how.metadata
        if self._claim is None and size_bytes <= self._inline_bytes:
            return Entry(size_bytes, now_ns, etag, metadata=metadata)
        self._send_buffer()
        while self._writes:
            self._await_write()
        assert self._claim is not None
        return Entry(size_bytes, now_ns, etag, self._claim.id, self._stripe_bytes, metadata)

    def _send_buffer(self) -> None:
        now_s = time.monotonic()
        if self._claim is None or now_s - self._heard_s > self._timing.heartbeat_s:
            self._claim = self._claimed() if self._claim is None else self._renewed(self._claim)
            self._heard_s = now_s
        if len(self._writes) == WRITTEN_AT_ONCE:
            self._await_write()
        data, number = bytes(self._buffer), self._sent
        self._sent += 1
        self._writes.append(self._stripes.begin_write(self._claim.id, number, data, f"storing {self._how.name!r}"))
        self._buffer = bytearray()

    def _await_write(self) -> None:
        try:
            self._writes.popleft().result(self._patience_s)
        except TimeoutError as error:
            raise StoreUnavailableError(f"storing {self._how.name!r} takes too long") from error

    def _settle_writes(self) -> None:
        """None of them is under way any more: what is removed stays removed."""
        while self._writes:
            try:
                self._await_write()
            except StoreError:
                continue

    def _claimed(self) -> Claim:
        """An id of one's own, known to the index before anything is written under it."""
        key, text = self._how.key, _writing()
        shard = self._index.shard_of(key)
        doing = f"beginning {self._how.name!r}"
        ids = [first_id(key)] if self._how.if_absent else []
        for id in (*ids, f"r{secrets.token_hex(16)}"):
            where = {LOOSE + id: "", key: ""} if id in ids else {LOOSE + id: ""}
            if self._index.commit(shard, where, {LOOSE + id: text.encode("ascii")}, doing=doing):
                return Claim(id, text)
        raise StoreUnavailableError(f"{doing} failed: its id is taken")

    def _renewed(self, claim: Claim) -> Claim:
        text, key = _writing(), LOOSE + claim.id
        shard = self._index.shard_of(self._how.key)
        doing = f"storing {self._how.name!r}"
        if not self._index.commit(shard, {key: claim.text}, {key: text.encode("ascii")}, doing=doing):
            raise StoreUnavailableError(f"{doing} failed: nothing was heard of it for so long that it was given up")
        return Claim(claim.id, text)


def _writing() -> str:
    return Loose(LooseState.WRITING, int(time.time()), 0).encode()
