"""The storing process: `python -m objectcache.storing.process SOCKET MEMORY MARKS SIZE COUNT`: descriptors, sizes.

It reads staged layers from the engine's staging pool, digests them and writes them. It ends with the engine.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
import threading
from functools import partial
from typing import Any

from objectcache.cache.base import SegmentUpload
from objectcache.cache.local import LocalUpload
from objectcache.client import ClientOptions
from objectcache.client.http import GatewayHttp
from objectcache.client.upload import GatewayUpload
from objectcache.errors import RequestError
from objectcache.segment import decode_header
from objectcache.stores import Store, open_store
from objectcache.storing.segments import SegmentBegin, SegmentEvents, SegmentThreads, Tickets
from objectcache.storing.writer import WRITING_THREADS
from objectcache.workers.channel import BlockingChannel, Message

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


class _Process:
    """The process itself."""

    def __init__(self, channel: BlockingChannel, memory: memoryview, marks: mmap.mmap) -> None:
        self._channel = channel
        self._memory = memory
        self._marks = marks
        self._marked: dict[tuple[int, int], int] = {}  # by store and layer
        self._recipes = Recipes()
        self._segments = SegmentThreads(WRITING_THREADS)

    def serve(self) -> None:
        while (received := self._channel.receive()) is not None:
            message = received[0]
            number = message["id"]
            match message["op"]:
                case "open":
                    self._open(number, message["segments"])
                case "layer":
                    self._marked[number, message["position"]] = message["mark"]
                    data = self._memory[message["offset"] : message["offset"] + message["size"]]
                    self._segments.layer(number, message["position"], data, message["slice_bytes"])
                case "finish":
                    self._segments.finish(number)
                case "abort":
                    self._segments.abort(number)
                case other:
                    raise RequestError(f"unknown order {other!r}")

    def _open(self, number: int, segments: list[tuple[dict[str, Any], int, int]]) -> None:
        begins = [SegmentBegin(partial(self._recipes.begin, recipe), first, stop) for recipe, first, stop in segments]
        tell = partial(self._tell, number)
        self._segments.open(
            number,
            begins,
            SegmentEvents(
                on_read=partial(self._read, number),
                on_finished=lambda tickets: tell("finished", rows=_rows(tickets)),
                on_failed=lambda error: tell("failed", code=error.code, message=str(error), status=error.status),
                on_ended=lambda tickets: tell("ended", rows=_rows(tickets)),
            ),
        )

    def _read(self, number: int, position: int) -> None:
        mark = self._marked.pop((number, position))
        if mark >= 0:
            self._marks[mark] = 1

    def _tell(self, number: int, event: str, **more: object) -> None:
        message: Message = {"event": event, "id": number, **more}
        self._channel.send(message)


def _rows(tickets: Tickets) -> list[tuple[bytes, ...] | None]:
    return [None if ticket is None else ticket.row_digests for ticket in tickets]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine; this process ends with it
    fd, memory_fd, marks_fd, size_bytes, marks = (int(argument) for argument in sys.argv[1:6])
    os.nice(NICENESS)
    memory = memoryview(mmap.mmap(memory_fd, size_bytes, prot=mmap.PROT_READ))
    with socket.socket(fileno=fd) as sock:
        _Process(BlockingChannel(sock), memory, mmap.mmap(marks_fd, marks)).serve()
    os._exit(0)  # what is still being written belongs to nobody


if __name__ == "__main__":
    main()
