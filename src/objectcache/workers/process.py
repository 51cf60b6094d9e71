"""A data worker: blocking system calls that move megabytes, in a process without an event loop.

`python -m objectcache.workers.process FD` serves the control process at the other end of the Unix socket FD, and ends
with it.
"""

from __future__ import annotations

import errno
import logging
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from objectcache.announcing import WINDOW_BYTES, Announcements
from objectcache.delivery import Delivery
from objectcache.errors import (
    DeliveryError,
    IntegrityError,
    ObjectCacheError,
    ObjectChangedError,
    SegmentGoneError,
    SharedMemoryRefusedError,
    StoreUnavailableError,
)
from objectcache.frames import FRAME_HEADER_BYTES, FrameType, credit_bytes, decode_frame
from objectcache.plan import Plan, PlanPart
from objectcache.recent import Recent
from objectcache.stores import Store, open_store
from objectcache.stores.base import UNLIMITED_BYTES
from objectcache.transports.active import ActiveDelivery
from objectcache.transports.sender import SenderSession
from objectcache.transports.shared_memory import ClientMemory, MappedFiles, PlacingDelivery, PlacingSession
from objectcache.transports.shared_memory.placements import placements_of
from objectcache.transports.sockets import recv_exact, send_all, send_range, tune
from objectcache.transports.source import Outgoing, spans_of, turn_bytes
from objectcache.verifying import is_damaged
from objectcache.workers.bodies import BodySpec
from objectcache.workers.channel import BlockingChannel, Message
from objectcache.workers.copying import copy_ranges
from objectcache.workers.fetched import Fetched
from objectcache.workers.joins import Joins
from objectcache.workers.open_objects import HeldObjects, OpenObjects
from objectcache.workers.uploads import ExpectedSegment, receive_object, receive_segment

log = logging.getLogger(__name__)

REAP_INTERVAL_S = 0.5
_WITH_DESCRIPTOR = {"attach", "respond", "send_object", "receive", "share"}
KNOWN_RUNS = 8192
"""Over all parts of plans that are kept decoded, 1 KB each."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Worker:
    """Carries out what the control process says; every order with a `tag` is answered, with that tag."""

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel
        self._sessions: dict[bytes, SenderSession] = {}
        self._stores: dict[str, Store] = {}
        self._objects = OpenObjects()
        self._known: Recent[int, PlanPart] = Recent(KNOWN_RUNS)
        self._joins = Joins(self._is_delivering)
        self._fetched = Fetched()
        self._files = MappedFiles()
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Until the control process is gone."""
        _in_thread("reaper", self._reap)
        orders: dict[str, Callable[[Message, list[int]], None]] = {
            "session": self._open_session,
            "share": self._share,
            "attach": self._attach,
            "rate": self._rate,
            "end_session": self._end_session,
            "deliver": self._deliver,
            "respond": self._respond,
            "cancel": self._cancel,
            "send_object": self._send_object,
            "receive": self._receive,
            "copy": self._copy,
            "forget_store": self._forget_store,
            "verify": self._verify,
            "join": self._join,
            "stop_joins": lambda message, fds: self._joins.stop(),
        }
        while (received := self._channel.receive()) is not None:
            message, fds = received
            try:
                if message["op"] in _WITH_DESCRIPTOR and not fds:
                    raise OSError(errno.EMFILE, "no room for a descriptor that was sent")
                orders[message["op"]](message, fds)
            except (OSError, RuntimeError):  # RuntimeError: no room for a thread
                log.exception("the order %r failed", message["op"])
                if message["op"] == "attach":
                    self._end_session(message, fds)
                elif "tag" in message:
                    self._answer(message, ObjectCacheError("the data worker failed: the gateway's log says why"))

    def _answer(self, message: Message, error: ObjectCacheError | None = None, **result: object) -> None:
        answer: Message = {"tag": message["tag"], **result}
        if error is not None:
            answer |= {"code": error.code, "message": str(error), "status": error.status}
            if isinstance(error, IntegrityError | SegmentGoneError):
                answer["segment"] = error.segment
        self._channel.send(answer)

    def _carry_out(self, name: str, message: Message, run: Callable[[], None]) -> None:
        """Run an order beside others; whatever happens, it is answered."""

        def carry_out() -> None:
            try:
                run()
            except Exception:  # nobody must wait for ever for what went wrong here
                log.exception("the order %r failed", name)
                self._answer(message, ObjectCacheError("the data worker failed: the gateway's log says why"))

        _in_thread(name, carry_out)

    def _store(self, url: str) -> Store:
        with self._lock:
            store = self._stores.get(url)
            if store is None:
                # Room is made and accounted for by the control process, which knows what may be evicted.
                store = self._stores[url] = open_store(url, limit_bytes=UNLIMITED_BYTES)
            return store

    # -- sessions: striped connections ------------------------------------------------------------

    def _open_session(self, message: Message, fds: list[int]) -> None:
        with self._lock:
            self._sessions[message["session"]] = SenderSession(message["streams"], self._lost(message["session"]))

    def _lost(self, session: bytes) -> Callable[[], None]:
        def lost() -> None:
            with self._lock:
                self._sessions.pop(session, None)
            self._channel.send({"lost": session})

        return lost

    def _share(self, message: Message, fds: list[int]) -> None:
        """The session, which has no streams yet, is of a client that shares its memory."""
        key = message["session"]
        with open(fds[0], "rb", closefd=True) as memory_file:
            session = self._sessions.get(key)
            if session is None:
                return
            try:
                memory = ClientMemory(memory_file.fileno())
            except SharedMemoryRefusedError as error:
                log.warning("the memory of a client is of no use: %s", error)
                session.close()  # its streams are turned away when they come
                return
        with self._lock:
            self._sessions[key] = PlacingSession(session.streams, memory, self._files, self._lost(key))
        if message["prefaulted"]:
            _in_thread("populate", memory.populate)

    def _attach(self, message: Message, fds: list[int]) -> None:
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(True)
        if sock.family != socket.AF_UNIX:
            tune(sock)
        session = self._sessions.get(message["session"])
        if session is None:
            sock.close()
            return
        listening = sock.dup()
        if session.attach(message["stream"], sock):
            _in_thread("listener", lambda: _listen(session, listening))
        else:
            listening.close()

    def _rate(self, message: Message, fds: list[int]) -> None:
        """Pace a session: `bytes_s` (0: not at all) of all its streams together, or of `stream`."""
        session = self._sessions.get(message["session"])
        if session is not None:
            session.pace(message["bytes_s"], message.get("stream"))

    def _end_session(self, message: Message, fds: list[int]) -> None:
        with self._lock:
            session = self._sessions.pop(message["session"], None)
        if session is not None:
            session.close()

    # -- deliveries -------------------------------------------------------------------------------

    def _deliver(self, message: Message, fds: list[int]) -> None:
        session = self._sessions.get(message["session"])
        if session is None:
            self._answer(message, DeliveryError("the data session has ended"))
            return
        self._start(message, session)

    def _respond(self, message: Message, fds: list[int]) -> None:
        """A delivery as the body of an HTTP response, whose head comes with the order. The socket is shared with the
        control process's event loop and stays non-blocking."""
        sock = socket.socket(fileno=fds[0])
        sock.settimeout(message["deadline_s"] + 5.0)
        session = SenderSession(1, once=True)
        with self._lock:
            self._sessions[message["session"]] = session

        def respond() -> None:
            try:
                send_all(sock, message["head"], more=True)
            except OSError:
                sock.close()
                with self._lock:
                    self._sessions.pop(message["session"], None)
                self._answer(message, DeliveryError("the client went away"))
                return
            self._start(message, session)
            session.attach(0, sock)

        self._carry_out("response", message, respond)

    def _start(self, message: Message, session: SenderSession) -> None:
        plan = Plan.from_wire(message["plan"], self._known)
        delivery, epoch = message["delivery"], message["epoch"]
        state = Delivery(
            streams=session.streams,
            credit_bytes=message["credit_bytes"],
            deadline_s=time.monotonic() + message["deadline_s"],
        )
        held: HeldObjects | None = None
        spans: Iterator[list[Outgoing]] = iter(())
        far = False
        placing = isinstance(session, PlacingSession)
        try:
            store = self._store(message["store"])
            far = store.far
            held = self._objects.hold(store, plan.segment_bytes)
            ahead = Announcements(plan, held.readers) if far else None
            spans = (placements_of if placing else spans_of)(plan, held.readers, delivery, epoch, ahead)
        except ObjectCacheError as error:
            state.fail(error)

        def over(error: ObjectCacheError | None) -> None:
            if held is not None:
                held.release()
            if session.once:
                with self._lock:
                    self._sessions.pop(message["session"], None)
            fetched_bytes = self._fetched.since_last(store) if error is None else 0
            self._answer(message, error, sent_bytes=state.sent_bytes, fetched_bytes=fetched_bytes)

        if isinstance(session, PlacingSession):
            where = {"geometry": plan.geometry, "offset": message["offset"]}
            session.add(PlacingDelivery(delivery, epoch, state, spans, over, **where, far=far))
        else:
            turn = turn_bytes(plan, session.streams)
            session.add(ActiveDelivery(delivery, epoch, state, spans, over, far=far, turn_bytes=turn))

    def _cancel(self, message: Message, fds: list[int]) -> None:
        session = self._sessions.get(message["session"])

        def cancel() -> None:
            quiet = session is None or session.cancel(message["delivery"], message["epoch"], message["timeout_s"])
            self._answer(message, quiet=quiet)

        self._carry_out("cancel", message, cancel)

    def _reap(self) -> None:
        while True:
            time.sleep(REAP_INTERVAL_S)
            now_s = time.monotonic()
            with self._lock:
                sessions = list(self._sessions.values())
            for session in sessions:
                session.reap(now_s)
            self._objects.close_idle(now_s)
            self._files.close_idle(now_s)

    def _is_delivering(self) -> bool:
        with self._lock:
            return not all(session.idle for session in self._sessions.values())

    # -- whole objects ----------------------------------------------------------------------------

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
                    self._answer(message, DeliveryError("the client went away"))
                except ObjectCacheError as error:
                    # Behind a head that is sent, nothing else can be said.
                    self._answer(message, DeliveryError(str(error)) if begun else error)
                else:
                    self._answer(message)

        self._carry_out("send-object", message, send)

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
                        self._answer(message, header=header.encoded, row_digests=list(rows))
                    else:
                        spec = BodySpec.from_wire(message["body"])
                        info, checksum = receive_object(sock, spec, store, message["name"], **message["how"])
                        self._answer(message, etag=info.etag, size_bytes=info.size_bytes, checksum=checksum)
                except ObjectCacheError as error:
                    self._answer(message, error)
                except OSError as error:
                    self._answer(message, StoreUnavailableError(f"the upload broke off: {error}"))

        self._carry_out("receive", message, receive)

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
                self._answer(message, etag=info.etag, modified_s=info.modified_s, size_bytes=info.size_bytes)
            except ObjectCacheError as error:
                self._answer(message, error)

        self._carry_out("copy", message, copy)

    def _forget_store(self, message: Message, fds: list[int]) -> None:
        """Its bucket was deleted: another may be made in its place."""
        with self._lock:
            store = self._stores.pop(message["store"], None)
        if store is not None:
            store.close()

    def _verify(self, message: Message, fds: list[int]) -> None:
        """Read segments whole; which of them are damaged or gone."""

        def verify() -> None:
            store = self._store(message["store"])
            try:
                self._answer(message, damaged=[name for name in message["segments"] if is_damaged(store, name)])
            except ObjectCacheError as error:
                self._answer(message, error)

        self._carry_out("verify", message, verify)

    def _join(self, message: Message, fds: list[int]) -> None:
        """Segments that follow each other, as a new one."""

        def run() -> None:
            try:
                joined = self._joins.run(self._store(message["store"]), message)
                self._answer(message, header=joined.header.encoded, row_digests=list(joined.row_digests))
            except ObjectCacheError as error:
                self._answer(message, error)

        self._carry_out("join", message, run)


def _listen(session: SenderSession, sock: socket.socket) -> None:
    """Credit from the receiver; and its going away, which a stream that has nothing to send would not notice."""
    header = memoryview(bytearray(FRAME_HEADER_BYTES))
    try:
        with sock:
            while True:
                recv_exact(sock, header)
                frame = decode_frame(header)
                if frame.type is not FrameType.CREDIT:
                    raise DeliveryError(f"a receiver does not send {frame.type.name} frames")
                session.grant(frame.delivery, frame.epoch, credit_bytes(frame))
    except ObjectCacheError:
        session.close()


def _in_thread(name: str, run: Callable[[], None]) -> None:
    threading.Thread(target=run, name=name, daemon=True).start()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the control process, which drains
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # streams take two each, and segments stay open
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        Worker(BlockingChannel(sock)).serve()


if __name__ == "__main__":
    main()
