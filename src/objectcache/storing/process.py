"""The storing process: `python -m objectcache.storing.process SOCKET MEMORY BOARD BYTES ADDRESS PROBE`.

SOCKET, MEMORY and BOARD are descriptors, BYTES is the size of MEMORY, ADDRESS where the engine holds PROBE (hex).
It reads staged layers from the engine's staging pool, digests them and writes them. It ends with the engine.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import sys
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from objectcache.cache.base import SegmentUpload
from objectcache.cache.local import LocalUpload
from objectcache.client import ClientOptions
from objectcache.client.http import GatewayHttp
from objectcache.client.upload import GatewayUpload
from objectcache.errors import ObjectCacheError, RequestError
from objectcache.segment import decode_header
from objectcache.stores import Store, open_store
from objectcache.storing.board import Order, ProcessBoard
from objectcache.storing.lanes import Lane, Lanes
from objectcache.storing.memory import EngineMemory
from objectcache.storing.segments import SegmentBegin, SegmentEvents, SegmentThreads, Tickets
from objectcache.storing.writer import WRITING_THREADS
from objectcache.workers.channel import BlockingChannel, Message

LOOK_S = 0.0005
COPYING_THREADS = 2
NICENESS = 5
"""The engine comes first where cores are short. Much more, and any other process starves storing into drops."""


class Recipes:
    """From a recipe of `ForeignUpload` to the upload. Stores and gateways stay open. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: dict[str, Store] = {}
        self._gateways: dict[tuple[object, ...], GatewayHttp] = {}

    def begin(self, recipe: dict[str, Any]) -> SegmentUpload | None:
        """None when all of it is covered. May block. Raises ObjectCacheError."""
        header = decode_header(recipe["header"])
        if recipe["kind"] == "store":
            upload = self._store(recipe["url"]).upload(header.name, size_bytes=header.total_bytes, if_absent=True)
            return LocalUpload(header, upload, lambda ticket: None)
        return GatewayUpload.begin(self._gateway(recipe), recipe["bucket"], header)

    def _store(self, url: str) -> Store:
        with self._lock:
            if url not in self._stores:
                self._stores[url] = open_store(url)
            return self._stores[url]

    def _gateway(self, recipe: dict[str, Any]) -> GatewayHttp:
        options = ClientOptions(**recipe["options"])
        where = (recipe["host"], recipe["port"], recipe["tls"], options)
        with self._lock:
            if where not in self._gateways:
                endpoint = options.endpoint(recipe["host"], recipe["port"], tls=recipe["tls"])
                self._gateways[where] = GatewayHttp(endpoint, timeout_s=options.timeout_s)
            return self._gateways[where]


@dataclass(eq=False)
class _Store:
    """`lane` copies its layers and hands them on, in order; `entries`: where each layer stands on the board."""

    lane: Lane = field(default_factory=Lane)
    entries: dict[int, int] = field(default_factory=dict)
    ended: bool = False


class _Process:
    """The process itself."""

    def __init__(self, sock: socket.socket, memory: memoryview, board: ProcessBoard) -> None:
        self._socket = sock
        self._channel = BlockingChannel(sock)
        self._memory = memory
        self._board = board
        self._recipes = Recipes()
        self._segments = SegmentThreads(WRITING_THREADS)
        self._engine = EngineMemory(os.getppid())
        self._copying = Lanes(COPYING_THREADS, "objectcache-copy")
        self._stores: dict[int, _Store] = {}  # that more is to come of

    def serve(self, probe_address: int, probe: bytes) -> None:
        self._tell(0, "ready", reads=self._engine.may_read(probe_address, probe))
        while True:
            wait_s = LOOK_S if self._stores else None
            message: Message = {}
            if self._channel.at_hand or select.select([self._socket], [], [], wait_s)[0]:
                received = self._channel.receive()
                if received is None:
                    return
                message = received[0]
            self._look()  # orders of a store are given before its end is told
            if message:
                self._take(message)

    def _take(self, message: Message) -> None:
        number = message["id"]
        match message["op"]:
            case "open":
                self._open(number, message["segments"])
            case "finish":
                self._copying.submit(self._stores.pop(number).lane, partial(self._segments.finish, number))
            case "abort":
                self._abort(number)
            case other:
                raise RequestError(f"unknown order {other!r}")

    def _abort(self, number: int) -> None:
        store = self._stores.pop(number, None)
        if store is not None:
            self._copying.submit(store.lane, partial(self._segments.abort, number))
        else:  # it was finished, and then came late, turned out to be stored already, or was not committed
            self._segments.abort(number)

    def _look(self) -> None:
        """Take the layers that are on the board, of every store in order."""
        for entry, order in sorted(self._board.orders(), key=lambda found: found[1]):
            store = self._stores.get(order.number)
            if store is not None and order.position == len(store.entries):  # it is open, and the board not half-seen
                store.entries[order.position] = entry
                self._copying.submit(store.lane, partial(self._write, store, entry, order))

    def _write(self, store: _Store, entry: int, order: Order) -> None:
        if store.ended:
            return
        data = self._memory[order.offset : order.offset + order.size_bytes]
        if order.address:
            try:
                self._engine.copy(order.address, data)
            except ObjectCacheError as error:
                self._segments.fail(order.number, error)
                return
            self._board.copied(entry)
        self._segments.layer(order.number, order.position, data, order.slice_bytes)

    def _end(self, store: _Store, number: int, tickets: Tickets) -> None:
        """Behind what is being copied: the engine takes its memory back when it hears of the end."""
        store.ended = True
        self._tell(number, "ended", rows=_rows(tickets))

    def _open(self, number: int, segments: list[tuple[dict[str, Any], int, int]]) -> None:
        begins = [SegmentBegin(partial(self._recipes.begin, recipe), first, stop) for recipe, first, stop in segments]
        store = self._stores[number] = _Store()
        tell = partial(self._tell, number)
        self._segments.open(
            number,
            begins,
            SegmentEvents(
                on_read=lambda position: self._board.read(store.entries[position]),
                on_finished=lambda tickets: tell("finished", rows=_rows(tickets)),
                on_failed=lambda error: tell("failed", code=error.code, message=str(error), status=error.status),
                on_ended=lambda tickets: self._copying.submit(store.lane, partial(self._end, store, number, tickets)),
            ),
        )

    def _tell(self, number: int, event: str, **more: object) -> None:
        message: Message = {"event": event, "id": number, **more}
        self._channel.send(message)


def _rows(tickets: Tickets) -> list[tuple[bytes, ...] | None]:
    return [None if ticket is None else ticket.row_digests for ticket in tickets]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine; this process ends with it
    fd, memory_fd, board_fd, size_bytes, probe_address = (int(argument) for argument in sys.argv[1:6])
    os.nice(NICENESS)
    memory = memoryview(mmap.mmap(memory_fd, size_bytes))
    with socket.socket(fileno=fd) as sock:
        _Process(sock, memory, ProcessBoard(board_fd)).serve(probe_address, bytes.fromhex(sys.argv[6]))
    os._exit(0)  # what is still being written belongs to nobody


if __name__ == "__main__":
    main()
