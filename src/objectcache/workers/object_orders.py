"""Orders about whole objects: their bytes to and from sockets, copies, checks and joins."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

from objectcache.announcing import WINDOW_BYTES
from objectcache.errors import DeliveryError, ObjectCacheError, ObjectChangedError, StoreUnavailableError
from objectcache.transports.sockets import send_all, send_range
from objectcache.verifying import is_damaged
from objectcache.workers.answering import Answering, Order, WorkerStores
from objectcache.workers.bodies import BodySpec
from objectcache.workers.channel import Message
from objectcache.workers.copying import copy_ranges
from objectcache.workers.joins import Joins
from objectcache.workers.uploads import ExpectedSegment, receive_object, receive_segment

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ObjectOrders:
    """Each is carried out in a thread of its own."""

    def __init__(self, answering: Answering, stores: WorkerStores, is_delivering: Callable[[], bool]) -> None:
        self._answering = answering
        self._store = stores.get
        self._joins = Joins(is_delivering)
        self.orders: Mapping[str, Order] = {
            "send_object": self._send_object,
            "receive": self._receive,
            "copy": self._copy,
            "forget_store": lambda message, fds: stores.forget(message["store"]),
            "verify": self._verify,
            "join": self._join,
            "stop_joins": lambda message, fds: self._joins.stop(),
        }

    def _send_object(self, message: Message, fds: list[int]) -> None:
        """A range of an object as the body of an HTTP response, after the head that comes with the order.

        Answers DeliveryError when a part of it may have been sent, any other error when nothing was.
        """
        sock = socket.socket(fileno=fds[0])
        sock.settimeout(message["timeout_s"])

        def send() -> None:
            begun = False
            with sock:
                try:
                    store = self._store(message["store"])
                    with store.open(message["name"]) as reader:
                        if reader.info.etag != message["etag"]:
                            raise ObjectChangedError(f"{message['name']!r} was replaced just now")
                        begun = True
                        send_all(sock, message["head"], more=True)
                        ahead_bytes = WINDOW_BYTES if store.far else 0
                        send_range(sock, reader, message["offset"], message["length"], ahead_bytes=ahead_bytes)
                except OSError:
                    self._answering.answer(message, DeliveryError("the client went away"))
                except ObjectCacheError as error:
                    # Behind a head that is sent, nothing else can be said.
                    self._answering.answer(message, DeliveryError(str(error)) if begun else error)
                else:
                    self._answering.answer(message)

        self._answering.carry_out("send-object", message, send)

    def _receive(self, message: Message, fds: list[int]) -> None:
        """The body of an upload. `go_ahead`: the client waits for 100-continue."""
        sock = socket.socket(fileno=fds[0])
        sock.settimeout(message["timeout_s"])

        def receive() -> None:
            with sock:
                try:
                    store = self._store(message["store"])
                    if message["go_ahead"]:
                        send_all(sock, CONTINUE)
                    if "segment" in message:
                        fields = message["segment"]
                        fields["layers"], fields["slice_bytes"] = tuple(fields["layers"]), tuple(fields["slice_bytes"])
                        header, rows = receive_segment(sock, message["length"], store, ExpectedSegment(**fields))
                        self._answering.answer(message, header=header.encoded, row_digests=list(rows))
                    else:
                        spec = BodySpec.from_wire(message["body"])
                        info, checksum = receive_object(sock, spec, store, message["name"], **message["how"])
                        self._answering.answer(message, etag=info.etag, size_bytes=info.size_bytes, checksum=checksum)
                except ObjectCacheError as error:
                    self._answering.answer(message, error)
                except OSError as error:
                    self._answering.answer(message, StoreUnavailableError(f"the upload broke off: {error}"))

        self._answering.carry_out("receive", message, receive)

    def _copy(self, message: Message, fds: list[int]) -> None:
        """Ranges of objects, one after the other, as a new object. `digest`: its etag is to be its MD5."""

        def copy() -> None:
            try:
                info = copy_ranges(
                    [
                        (self._store(item["store"]), item["name"], item["etag"], *item["range"])
                        for item in message["of"]
                    ],
                    self._store(message["store"]),
                    message["name"],
                    etag=message["etag"],
                    digest=message["digest"],
                    **message["how"],
                )
                self._answering.answer(message, etag=info.etag, modified_s=info.modified_s, size_bytes=info.size_bytes)
            except ObjectCacheError as error:
                self._answering.answer(message, error)

        self._answering.carry_out("copy", message, copy)

    def _verify(self, message: Message, fds: list[int]) -> None:
        """Read segments whole; which of them are damaged or gone."""

        def verify() -> None:
            store = self._store(message["store"])
            try:
                self._answering.answer(
                    message, damaged=[name for name in message["segments"] if is_damaged(store, name)]
                )
            except ObjectCacheError as error:
                self._answering.answer(message, error)

        self._answering.carry_out("verify", message, verify)

    def _join(self, message: Message, fds: list[int]) -> None:
        """Segments that follow each other, as a new one."""

        def run() -> None:
            try:
                joined = self._joins.run(self._store(message["store"]), message)
                self._answering.answer(message, header=joined.header.encoded, row_digests=list(joined.row_digests))
            except ObjectCacheError as error:
                self._answering.answer(message, error)

        self._answering.carry_out("join", message, run)
