"""Writing an object to S3: one PUT for what fits into a part, else a multipart upload that sends parts as they fill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue
from threading import Thread, main_thread

from objectcache.errors import (
    NotSupportedError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
    StoreUnavailableError,
)
from objectcache.integrity import Buffer
from objectcache.stores.base import ANY_ETAG, ObjectInfo, ObjectUpload, check_metadata
from objectcache.stores.s3.calls import S3Calls
from objectcache.stores.s3.metadata import to_attributes

REPLACEMENT_BYTES = 64 << 20
"""The largest object that `if_match` replaces: one PUT, from memory."""
_TRIES = 4
_LOOK_S = 0.2
"""How often a thread that waits for the other one looks whether it is still there."""


@dataclass(frozen=True, slots=True)
class Publication:
    """Where, under what conditions and with what an object appears."""

    name: str
    key: str
    if_absent: bool
    if_match: str
    metadata: dict[str, str]
    attributes: dict[str, str]


class S3Upload(ObjectUpload):
    """Up to `part_bytes` are one conditional PUT. More are a multipart upload, which S3's clients cannot make
    conditional everywhere: `if_absent` is then looked up at its begin and before its end, which two uploads of one
    name at the same time can both pass. `if_match` is always one PUT: larger objects raise NotSupportedError.
    """

    def __init__(self, calls: S3Calls, how: Publication, part_bytes: int) -> None:
        self._calls, self._how, self._part_bytes = calls, how, part_bytes
        self._buffered_bytes = REPLACEMENT_BYTES if how.if_match else part_bytes
        self._buffer = bytearray()
        self._sent_bytes = 0
        self._stream: _PartStream | None = None
        self._ended = False

    def write(self, data: Buffer) -> None:
        self._check_running()
        view = memoryview(data)
        if not view.nbytes:
            return
        rest = view.cast("B")
        try:
            while rest:
                if len(self._buffer) == self._buffered_bytes:
                    self._send_buffer()
                room = self._buffered_bytes - len(self._buffer)
                self._buffer += rest[:room]
                rest = rest[room:]
        except StoreError:
            self.abort()
            raise

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        if self._stream is None:
            together = {**self._how.metadata, **metadata}
            check_metadata(together)
            self._how = replace(self._how, metadata=together, attributes=to_attributes(together))

    def publish(self, *, etag: str = "") -> ObjectInfo:
        self._check_running()
        try:
            size_bytes = self._sent_bytes + len(self._buffer)
            given_etag = self._put() if self._stream is None else self._complete(self._stream)
            self._ended = True
        except StoreError:
            self.abort()
            raise
        modified_s = time.time()
        if not given_etag:  # one service has none for multipart uploads
            stored = self._calls.head(self._how.key)
            given_etag, modified_s = stored.etag, stored.modified_s
        return ObjectInfo(self._how.name, size_bytes, modified_s, given_etag, self._how.metadata)

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._buffer = bytearray()
            if self._stream is not None:
                self._stream.abort()

    def _check_running(self) -> None:
        if self._ended:
            raise StoreError(f"the upload of {self._how.name!r} has ended")

    def _send_buffer(self) -> None:
        """The full buffer is one part of several."""
        if self._how.if_match:
            raise NotSupportedError(
                f"{self._how.name!r} cannot be replaced on a condition: that takes one PUT, of at most "
                f"{REPLACEMENT_BYTES} bytes"
            )
        if self._stream is None:
            self._check_absent()
            calls, how, part_bytes = self._calls, self._how, self._part_bytes
            self._stream = _PartStream(lambda parts: calls.put_parts(how.key, parts, how.attributes, part_bytes))
        self._stream.send(self._buffer)
        self._sent_bytes += len(self._buffer)
        self._buffer = bytearray()

    def _complete(self, stream: _PartStream) -> str:
        self._check_absent()
        stream.send(self._buffer)
        return stream.finish()

    def _check_absent(self) -> None:
        if self._how.if_absent:
            with suppress(ObjectNotFoundError):
                self._calls.head(self._how.key)
                raise ObjectExistsError(f"{self._how.name!r} is stored already")

    def _put(self) -> str:
        how = self._how
        if not how.if_match:
            return self._calls.put(how.key, self._buffer, how.attributes, if_absent=how.if_absent)
        if how.if_match != ANY_ETAG:
            return self._replace(how.if_match)
        for _ in range(_TRIES):
            with suppress(ObjectChangedError):  # replaced since it was looked at
                return self._replace(self._calls.head(how.key).etag)
        raise ObjectChangedError(f"{how.name!r} is replaced all the time")

    def _replace(self, etag: str) -> str:
        how = self._how
        try:
            return self._calls.put(how.key, self._buffer, how.attributes, if_match=etag)
        except ObjectChangedError:
            # Ceph compares etags without quotes, others may insist on them.
            if self._calls.head(how.key).etag != etag:
                raise
            return self._calls.put(how.key, self._buffer, how.attributes, if_match=f'"{etag}"')


class _AbortedError(StoreError):
    """Told to obstore through the iterator of parts, so that it aborts the upload."""


class _PartStream:
    """A thread that uploads parts as they come. Its memory: the parts under way, one that waits, one that fills."""

    def __init__(self, upload: Callable[[Iterator[bytearray]], str]) -> None:
        self._upload = upload
        self._parts: Queue[bytearray | None] = Queue(1)
        self._etag: Future[str] = Future()
        self._aborted = False
        self._thread = Thread(target=self._run, name="s3-upload")
        self._thread.start()

    def send(self, part: bytearray) -> None:
        """Hand over `part`. Raises the StoreError that the upload has ended with."""
        self._put(part)

    def finish(self) -> str:
        """No more parts: the etag."""
        self._put(None)
        return self._etag.result()

    def abort(self) -> None:
        """Returns when nothing of it is left, or the store did not answer in time."""
        self._aborted = True
        with suppress(Full):
            self._parts.put_nowait(None)  # wakes it
        self._thread.join()

    def _put(self, part: bytearray | None) -> None:
        while not self._etag.done():
            with suppress(Full):
                self._parts.put(part, timeout=_LOOK_S)
                return
        self._etag.result()

    def _run(self) -> None:
        try:
            self._etag.set_result(self._upload(self._arriving()))
        except StoreError as error:
            self._etag.set_exception(error)
        finally:
            if not self._etag.done():
                self._etag.set_exception(StoreUnavailableError("an upload has failed for a reason that was logged"))

    def _arriving(self) -> Iterator[bytearray]:
        part: bytearray | None = bytearray()
        while part is not None:
            try:
                part = self._parts.get(timeout=_LOOK_S)
            except Empty:
                part = bytearray()
            # An upload that is forgotten must not keep the process.
            if self._aborted or not main_thread().is_alive():
                raise _AbortedError("the upload was aborted")
            if part:
                yield part
