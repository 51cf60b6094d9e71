"""A sending session over socket pairs, with a store that can be slow or broken behind it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from objectcache.announcing import Announcements
from objectcache.delivery import Delivery
from objectcache.errors import DeliveryError, GatewayUnavailableError, ObjectCacheError
from objectcache.frames import FRAME_HEADER_BYTES, MAX_FRAME_BYTES, FrameType, decode_error, decode_frame
from objectcache.layout import DIGEST_BYTES, PartShape
from objectcache.names import segment_name
from objectcache.plan import Plan, PlanPart, PlanRun
from objectcache.stores import Store
from objectcache.transports import ActiveDelivery, SenderSession
from objectcache.transports.pacing import Pace
from objectcache.transports.sockets import recv_exact
from objectcache.transports.source import spans_of
from objectcache.workers.open_objects import OpenObjects
from tests.segments import encode, make_header, random_chain, random_layers

PATIENCE_S = 20.0


@dataclass
class StoredPrefix:
    """A prefix in several segments: its plan, and the layers of all of it."""

    plan: Plan
    layers: list[bytes]


def store_prefix(store: Store, seed: int, *, segments: int, chunks: int, layers: int, slice_bytes: int) -> StoredPrefix:
    """`chunks` in each segment, named by `seed`."""
    runs, contents = [], [b""] * layers
    for number in range(segments):
        header = make_header(
            num_chunks=chunks,
            layers=range(layers),
            slice_bytes=[slice_bytes] * layers,
            name=segment_name(f"s{seed}", number),
            keys=random_chain(100 * seed + number, chunks),
        )
        data = random_layers(header, 100 * seed + number)
        contents = [before + layer for before, layer in zip(contents, data, strict=True)]
        encoded, digests = encode(header, data)
        store.put(header.name, encoded)
        runs.append(PlanRun(header.name, header.geometry, b"".join(digests), header.leaf, 0, chunks, number * chunks))
    shape = PartShape(tuple(range(layers)), (slice_bytes,) * layers, segments * chunks)
    return StoredPrefix(Plan.of([PlanPart(0, 0, shape, tuple(runs))], 1), contents)


@dataclass
class Received:
    """What arrived of one delivery. `order` are the layers of frames, as they came."""

    layers: dict[int, bytearray] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    wire_bytes: int = 0
    last_words: list[FrameType] = field(default_factory=list)
    errors: list[ObjectCacheError] = field(default_factory=list)

    def whole(self, prefix: StoredPrefix) -> bool:
        return [bytes(self.layers.get(layer, b"")) for layer in range(len(prefix.layers))] == prefix.layers


class Session:
    """A session whose streams are read by threads that only sort what comes."""

    def __init__(self, streams: int) -> None:
        self.sender = SenderSession(streams, self._lost)
        self.objects = OpenObjects()
        self.lost = threading.Event()
        self.received: dict[int, Received] = {}
        self.outcomes: dict[int, ObjectCacheError | None] = {}
        self.actives: list[ActiveDelivery] = []
        self._lock = threading.Lock()
        self._numbers = iter(range(1, 1000))
        self._threads = []
        self._plans: dict[int, Plan] = {}
        for stream in range(streams):
            mine, theirs = socket.socketpair()
            self._threads.append(threading.Thread(target=self._read, args=(mine,)))
            self._threads[-1].start()
            assert self.sender.attach(stream, theirs)

    def _lost(self) -> None:
        self.lost.set()

    def deliver(
        self,
        store: Store,
        prefix: StoredPrefix,
        *,
        deadline_s: float = PATIENCE_S,
        credit_bytes: int = 0,
        turn: int = MAX_FRAME_BYTES,
        pace: Pace | None = None,
    ) -> int:
        """Start a delivery; its number."""
        number = next(self._numbers)
        self._plans[number] = prefix.plan
        self.received[number] = Received()
        until_s = time.monotonic() + deadline_s
        state = Delivery(streams=self.sender.streams, credit_bytes=credit_bytes, deadline_s=until_s)
        held = self.objects.hold(store, prefix.plan.segment_bytes)
        ahead = Announcements(prefix.plan, held.readers) if store.far else None
        spans = spans_of(prefix.plan, held.readers, number, 0, ahead)

        def over(error: ObjectCacheError | None) -> None:
            held.release()
            self.outcomes[number] = error

        active = ActiveDelivery(number, 0, state, spans, over, far=store.far, turn_bytes=turn, pace=pace)
        self.actives.append(active)
        rest = self.sender.begin(active)
        if rest is not None:  # as in a worker: meanwhile another thread takes orders
            self._threads.append(threading.Thread(target=rest))
            self._threads[-1].start()
        return number

    def wait(self, number: int) -> ObjectCacheError | None:
        """What the delivery ended with; all of its last words have then arrived."""
        until_s = time.monotonic() + PATIENCE_S
        while number not in self.outcomes or len(self.received[number].last_words) < self.sender.streams:
            assert time.monotonic() < until_s, "the delivery does not end"
            time.sleep(0.002)
        return self.outcomes[number]

    def _read(self, sock: socket.socket) -> None:
        head = memoryview(bytearray(FRAME_HEADER_BYTES))
        with sock:
            while True:
                try:
                    recv_exact(sock, head)
                    frame = decode_frame(head)
                    body = memoryview(bytearray(frame.extra * DIGEST_BYTES + frame.data_bytes))
                    recv_exact(sock, body)
                except (GatewayUnavailableError, DeliveryError):
                    return
                received = self.received[frame.delivery]
                data = body[frame.extra * DIGEST_BYTES :]
                with self._lock:
                    if frame.type is not FrameType.DATA:
                        if frame.type is FrameType.ERROR:
                            received.errors.append(decode_error(data))
                        received.last_words.append(frame.type)
                        continue
                    shape = self._plans[frame.delivery].parts[0].shape
                    size = shape.slice_bytes[0]
                    layer = received.layers.setdefault(frame.layer, bytearray(shape.num_chunks * size))
                    at = frame.first_chunk * size + frame.span_offset
                    layer[at : at + len(data)] = data
                    received.order.append(frame.layer)
                    received.wire_bytes += FRAME_HEADER_BYTES + len(body)

    def close(self) -> None:
        self.sender.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@contextmanager
def open_session(streams: int) -> Iterator[Session]:
    session = Session(streams)
    try:
        yield session
    finally:
        session.close()
