"""A process of its own writes: digests, copies into sockets and files stay clear of the engine's interpreter lock."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

from objectcache.buffers import Buffer, BufferPool
from objectcache.cache.base import ForeignUpload, KVCache, UploadTicket
from objectcache.errors import BufferPoolExhaustedError, ObjectCacheError, StoreUnavailableError, error_from_code
from objectcache.storing.board import EngineBoard, Fields
from objectcache.storing.memory import PROBE, address_of, let_read
from objectcache.storing.writer import Wanted, Writer, WriterEvents
from objectcache.workers.channel import BlockingChannel, Message

MODULE = "objectcache.storing.process"
CLOSE_TIMEOUT_S = 2.0
SEND_TIMEOUT_S = 2


@dataclass(frozen=True, slots=True)
class _Store:
    uploads: list[ForeignUpload]
    events: WriterEvents

    def tickets(self, rows: Sequence[Sequence[bytes] | None]) -> list[UploadTicket]:
        return [
            upload.finished(digests) for upload, digests in zip(self.uploads, rows, strict=True) if digests is not None
        ]

    def close(self, error: ObjectCacheError | None = None) -> None:
        for upload in self.uploads:
            upload.close(error)


class ProcessWriter(Writer):
    """The storing process, which maps the staging pool. Started anew when it has ended and is needed."""

    def __init__(self, cache: KVCache, pool: BufferPool) -> None:
        self._cache = cache
        self._pool = pool
        self._lock = threading.Lock()
        self._closed = False
        self._child = self._start()

    def _start(self) -> _Child:
        self.processes += 1
        return _Child(self._pool)

    @property
    def pid(self) -> int:
        return self._running.pid

    def _living(self) -> _Child:
        with self._lock:
            if self._closed:
                raise StoreUnavailableError("the store queue is closed")
            if self._child.gone:
                self._child = self._start()
            return self._child

    def open(self, number: int, wanted: Wanted, events: WriterEvents) -> bool:
        uploads: list[ForeignUpload] = []
        segments = []
        try:
            for first, stop in wanted.segments:
                upload = self._cache.store_elsewhere(
                    wanted.namespace, wanted.chain, wanted.part, first=first, stop=stop
                )
                if upload is not None:
                    uploads.append(upload)
                    segments.append((upload.recipe, first - wanted.offered, stop - wanted.offered))
            if uploads:
                self._living().open(number, _Store(uploads, events), segments)
        except BaseException:
            for upload in uploads:
                upload.close()
            raise
        return bool(uploads)

    @property
    def copies(self) -> bool:
        return self._child.reads

    def layer(
        self, number: int, position: int, staged: Buffer, slice_bytes: int, source: memoryview | None = None
    ) -> None:
        address = 0 if source is None else address_of(source)
        self._child.layer((number, position, staged.offset, len(staged.view), slice_bytes, address))

    def finish(self, number: int) -> None:
        self._running.send({"op": "finish", "id": number})

    def abort(self, number: int) -> None:
        self._running.abort(number)

    def reap(self) -> None:
        self._running.reap()

    @property
    def _running(self) -> _Child:
        """The latest. One that it has replaced has told of the end of its stores, or is about to."""
        with self._lock:
            return self._child

    def unstick(self) -> None:
        """End the process, and with it whatever hangs; the next store starts another."""
        self._running.kill()

    def close(self, timeout_s: float) -> None:
        with self._lock:
            self._closed = True
        self._running.close(min(timeout_s, CLOSE_TIMEOUT_S))


class _Child:
    """One storing process, and what it has under way."""

    def __init__(self, pool: BufferPool) -> None:
        mine, theirs = socket.socketpair()
        # A process that hangs takes nothing: no thread of the engine may wait for it for ever.
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, Struct("ll").pack(SEND_TIMEOUT_S, 0))
        self._socket = mine
        self._channel = BlockingChannel(mine)
        self._lock = threading.Lock()
        self._stores: dict[int, _Store] = {}
        self._board = EngineBoard()
        self.gone = False
        self.reads = False  # what is in this process's memory
        self._probe = memoryview(PROBE)
        with theirs:
            fds = (theirs.fileno(), pool.fileno(), self._board.fd)
            command = [
                sys.executable,
                "-m",
                MODULE,
                *map(str, (*fds, pool.size_bytes, address_of(self._probe))),
                PROBE.hex(),
            ]
            self._process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        let_read(self._process.pid)
        self._board.close()
        self._listening = threading.Thread(target=self._listen, name="storing-process", daemon=True)
        self._listening.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(self, number: int, store: _Store, segments: Sequence[tuple[object, int, int]]) -> None:
        with self._lock:
            if self.gone:
                raise StoreUnavailableError("the storing process has ended")
            self._stores[number] = store
        self.send({"op": "open", "id": number, "segments": segments})

    def layer(self, order: Fields) -> None:
        if order[0] not in self._stores:  # it has ended, and with its end the memory came back
            return
        if self._board.order(order):
            return
        self.reap()
        if not self._board.order(order):
            raise BufferPoolExhaustedError("too many layers are on their way to the storing process")

    def abort(self, number: int) -> None:
        self.send({"op": "abort", "id": number})
        with self._lock:
            ended = number not in self._stores
        if ended:  # a layer may have been ordered while it did
            self._board.forget(number)

    def reap(self) -> None:
        for number, position in self._board.take_copied():
            if (store := self._find(number)) is not None:
                store.events.on_copied(position)
        for number, position in self._board.take():
            if (store := self._find(number)) is not None:
                store.events.on_read(position)

    def _find(self, number: int) -> _Store | None:
        with self._lock:
            return self._stores.get(number)

    def send(self, message: Message) -> None:
        self._channel.send(message)

    def kill(self) -> None:
        self._process.kill()

    def close(self, timeout_s: float) -> None:
        with contextlib.suppress(OSError):  # it may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listening.join(timeout_s)

    def _listen(self) -> None:
        while (received := self._channel.receive()) is not None:
            self._take(received[0])
        with self._lock:
            self.gone = True
            orphans, self._stores = self._stores, {}
        # Its last breath: with it, nothing reads the memory any more.
        if self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_TIMEOUT_S)
            self._process.kill()
            self._process.wait()
        ended = StoreUnavailableError("the storing process ended")
        for store in orphans.values():
            store.close(ended)
            store.events.on_failed(ended)
            store.events.on_ended([])
        self._socket.close()

    def _take(self, message: Message) -> None:
        event, number = message["event"], message["id"]
        if event == "ready":
            self.reads = message["reads"]
            return
        self.reap()  # what was copied and read is told before the end
        with self._lock:
            store = self._stores.pop(number, None) if event == "ended" else self._stores.get(number)
        if store is None:
            return
        match event:
            case "finished":
                store.events.on_finished(store.tickets(message["rows"]))
            case "failed":
                error = error_from_code(message["code"], message["message"], message["status"])
                store.close(error)
                store.events.on_failed(error)
            case "ended":
                self._board.forget(number)
                left = store.tickets(message["rows"])
                store.close()
                store.events.on_ended(left)
