"""The receiving side of deliveries over byte streams: frames in, verified layers at their final place.

`Receiver` knows the deliveries that are expected; every stream's thread calls `run` with a function that fills
memory. Data of deliveries that are over, unknown or of an older epoch is read and thrown away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from objectcache.delivery import Reception, is_piece
from objectcache.errors import DeliveryError, GatewayUnavailableError, IntegrityError, ObjectCacheError
from objectcache.frames import (
    FRAME_HEADER_BYTES,
    MAX_CONTROL_BYTES,
    MAX_EXTRA_DIGESTS,
    MAX_FRAME_BYTES,
    Frame,
    FrameType,
    decode_error,
    decode_frame,
)
from objectcache.integrity import LayerBinding, span_matches
from objectcache.keys import KeyChain
from objectcache.layout import DIGEST_BYTES, DeliveryGeometry, Span
from objectcache.recent import Recent
from objectcache.transports.joint import ArrivalBoard, JointReception
from objectcache.transports.verification import Verification

RecvExact = Callable[[memoryview], None]
VERIFY_ALL = Verification()
SHAPE_S = 1.0
"""How long frames wait for the answer that says what they are of, and with them all that is behind them."""
_REMEMBERED = 4096
"""Deliveries that are over, and of which frames may still come."""


@dataclass(frozen=True, slots=True)
class ExpectedPart:
    """What verifying one part needs: its indices and the keys of its chunks."""

    group: int
    shard: int
    keys: KeyChain


@dataclass(frozen=True, slots=True)
class Member:
    """Number `index` of `count` processes that receive a delivery: it has every `count`-th stream. `board` is the
    memory of their `ArrivalBoard`."""

    index: int
    count: int
    board: memoryview


@dataclass(eq=False)
class Expected:
    """A delivery that is awaited, its destination, and whom to tell.

    The callbacks are called from stream threads, without locks held: `on_section(number)` in no particular order,
    `on_failed(error)` at most once, `on_fenced()` exactly once and last, when nothing writes `memory` any more.
    """

    delivery: int
    epoch: int
    geometry: DeliveryGeometry | None
    """None: not known before `shape`."""
    parts: Sequence[ExpectedPart]
    memory: memoryview
    streams: int
    on_section: Callable[[int], None]
    on_failed: Callable[[ObjectCacheError], None]
    on_fenced: Callable[[], None]
    from_layer: int = 0
    shared: bool = False
    """Whether it is the sender that writes `memory`."""
    member: Member | None = None
    """Which of its streams come here, where others receive the rest."""
    first_layer: int = field(init=False, default=0)
    reception: Reception = field(init=False)
    failed_told: bool = field(init=False, default=False)
    telling: int = field(init=False, default=0)
    """Callbacks that are decided and not made yet: the fence is told after them."""

    def __post_init__(self) -> None:
        geometry = self.geometry
        if geometry is not None:
            self.first_layer = next(layer for layer in geometry.order if layer >= self.from_layer)
        if geometry is None or self.member is None:
            self.reception = Reception(geometry, self.epoch, self.streams, self.from_layer, shared=self.shared)
        else:
            board = ArrivalBoard(geometry, self.member.board, self.member.count, self.from_layer)
            streams = range(self.member.index, self.streams, self.member.count)
            self.reception = JointReception(geometry, self.epoch, streams, board, self.member.index, self.from_layer)

    def shape(self, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart]) -> None:
        """What comes, now that it is known."""
        self.parts = parts
        self.first_layer = next(layer for layer in geometry.order if layer >= self.from_layer)
        self.reception.shape(geometry)
        self.geometry = geometry


class Receiver:
    """The deliveries that the streams of one session carry. Thread-safe."""

    def __init__(self, verify: Verification = VERIFY_ALL, hold_s: float = 0.0) -> None:
        """`hold_s`: how long frames of a delivery wait that was never heard of, since `expect` may be on its way."""
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._expected: dict[int, Expected] = {}
        self._over: Recent[tuple[int, int], bool] = Recent(_REMEMBERED)
        self._verify = verify
        self._hold_s = hold_s

    def expect(self, expected: Expected) -> None:
        """Before the descriptor is sent: its frames may come at once."""
        with self._lock:
            self._expected[expected.delivery] = expected
            late = self._hold_s and self._over.get((expected.delivery, expected.epoch))
            if late:
                expected.reception.fail(DeliveryError("its frames came long before it was expected"))
            self._came.notify_all()
        if late:
            self._settle(expected)

    def shape(self, expected: Expected, geometry: DeliveryGeometry, parts: Sequence[ExpectedPart]) -> None:
        """It is known now what comes of a delivery that was expected without that: frames of it may have waited."""
        with self._lock:
            expected.shape(geometry, parts)
            self._came.notify_all()
        if expected.reception.stopped:
            self._settle(expected)

    def _find(self, delivery: int, epoch: int) -> Expected | None:
        """Holds the lock, but while it waits."""
        expected = self._expected.get(delivery)
        if expected is not None:
            if expected.geometry is None:
                self._await_shape(expected)
            return expected
        if not self._hold_s or self._over.get((delivery, epoch)):
            return None
        self._came.wait_for(
            lambda: delivery in self._expected or self._over.get((delivery, epoch)) is not None, self._hold_s
        )
        if delivery not in self._expected:
            self._over.put((delivery, epoch), True, 1)
        return self._expected.get(delivery)

    def _await_shape(self, expected: Expected) -> None:
        """Holds the lock, but while it waits. A delivery whose shape does not come has failed."""
        self._came.wait_for(lambda: expected.geometry is not None or expected.reception.stopped, SHAPE_S)
        if expected.geometry is None:
            expected.reception.fail(DeliveryError("its frames came long before the answer that says what they are of"))

    def cancel(self, delivery: int, epoch: int) -> frozenset[int]:
        """Stop writing a delivery's memory. The streams that are in the middle of a frame of it."""
        with self._lock:
            expected = self._expected.get(delivery)
            if expected is None and self._hold_s:
                self._over.put((delivery, epoch), True, 1)
                self._came.notify_all()  # frames of it need not wait
            if expected is None or expected.epoch != epoch:
                return frozenset()
            expected.reception.cancel()
            self._came.notify_all()
            writing = expected.reception.writing
            fenced = self._pop_if_fenced(expected)
        if fenced:
            expected.on_fenced()
        return writing

    def writing(self, delivery: int) -> frozenset[int]:
        """Streams in the middle of a frame of `delivery`."""
        with self._lock:
            expected = self._expected.get(delivery)
            return expected.reception.writing if expected else frozenset()

    def fail(self, delivery: int, error: ObjectCacheError) -> None:
        """The delivery will not come (its request was refused)."""
        with self._lock:
            expected = self._expected.get(delivery)
            if expected is not None:
                expected.reception.fail(error)
                self._came.notify_all()
        if expected is not None:
            self._settle(expected)

    def _pop_if_fenced(self, expected: Expected) -> bool:
        """Whether `expected` is over; it is then forgotten. Holds the lock."""
        over = expected.reception.fenced and not expected.telling
        if not over or self._expected.get(expected.delivery) is not expected:
            return False
        del self._expected[expected.delivery]
        self._over.put((expected.delivery, expected.epoch), True, 1)
        return True

    # -- a stream's thread ------------------------------------------------------------------------

    def run(self, stream: int, recv_exact: RecvExact, *, until_end_of: int | None = None) -> None:
        """Read frames until the stream ends, or (`until_end_of`) that delivery's last word.

        Raises GatewayUnavailableError at the stream's end and DeliveryError when it is out of step. Either way call
        `lost` then.
        """
        header = memoryview(bytearray(FRAME_HEADER_BYTES))
        scratch = memoryview(bytearray(max(MAX_FRAME_BYTES, MAX_EXTRA_DIGESTS * DIGEST_BYTES)))
        while True:
            recv_exact(header)
            frame = decode_frame(header)
            if frame.type is FrameType.DATA:
                self._data(stream, frame, recv_exact, scratch)
                continue
            error = None
            if frame.data_bytes:
                payload = scratch[: min(frame.data_bytes, MAX_CONTROL_BYTES)]
                recv_exact(payload)
                error = decode_error(payload)
            if frame.type not in (FrameType.END, FrameType.CANCELLED, FrameType.ERROR):
                raise DeliveryError(f"a sender does not send {frame.type.name} frames")
            self._last_word(stream, frame, error)
            if frame.delivery == until_end_of:
                return

    def lost(self, stream: int, error: ObjectCacheError) -> None:
        """The stream is gone; every delivery that still needed it fails."""
        with self._lock:
            affected = list(self._expected.values())
            for expected in affected:
                expected.reception.lose(stream, error)
            self._came.notify_all()
        for expected in affected:
            self._settle(expected)

    def _data(self, stream: int, frame: Frame, recv_exact: RecvExact, scratch: memoryview) -> None:
        with self._lock:
            expected = self._find(frame.delivery, frame.epoch)
            offset = expected.reception.begin(stream, frame) if expected else None
        digests = frame.digest
        if frame.extra:
            extra = scratch[: frame.extra * DIGEST_BYTES]
            recv_exact(extra)
            digests += bytes(extra)
        if expected is None or offset is None:
            recv_exact(scratch[: frame.data_bytes])
            return
        recv_exact(expected.memory[offset : offset + frame.data_bytes])
        verified, error = 0, None
        if expected.reception.span_complete(stream, frame):
            start = offset - frame.span_offset
            size = frame.span_offset + frame.data_bytes
            wanted = self._verify.wants(first_layer=frame.layer == expected.first_layer)
            if not wanted or self._verified(expected, frame, digests, expected.memory[start : start + size]):
                verified = size
            else:
                error = IntegrityError(
                    f"layer {frame.layer}, chunks {frame.first_chunk} to {frame.first_chunk + frame.num_chunks - 1}: "
                    "what arrived is not what was committed"
                )
        with self._lock:
            if error is not None:
                expected.reception.fail(error)
            complete = expected.reception.finish(stream, frame, verified)
            expected.telling += bool(complete)
        if complete or expected.reception.stopped:
            self._settle(expected, complete)

    def _verified(self, expected: Expected, frame: Frame, digests: bytes, data: memoryview) -> bool:
        part = expected.parts[frame.part]
        binding = LayerBinding(part.group, part.shard, frame.layer)
        stop = frame.first_chunk + frame.num_chunks
        if is_piece(frame):
            return binding.piece_digest(data, part.keys[stop - 1], frame.num_chunks) == digests
        keys = part.keys[frame.first_chunk : stop]
        span = Span(0, frame.num_chunks, None)
        return span_matches(binding, span, len(data) // frame.num_chunks, keys, digests, data)

    def _last_word(self, stream: int, frame: Frame, error: ObjectCacheError | None) -> None:
        with self._lock:
            expected = self._find(frame.delivery, frame.epoch)
            if expected is not None:
                expected.reception.end(stream, frame, error)
                missed = expected.reception.missed()
                expected.telling += bool(missed)
        if expected is not None:
            self._settle(expected, missed)

    def _settle(self, expected: Expected, complete: Sequence[int] = ()) -> None:
        """Tell what has come of it: sections that landed, a failure, the fence. In that order."""
        for section in complete:
            expected.on_section(section)
        with self._lock:
            error = None if expected.failed_told else expected.reception.error
            expected.failed_told = expected.failed_told or error is not None
            expected.telling += (error is not None) - bool(complete)
            fenced = self._pop_if_fenced(expected)
        if error is not None:
            expected.on_failed(error)
            with self._lock:
                expected.telling -= 1
                fenced = self._pop_if_fenced(expected)
        if fenced:
            expected.on_fenced()


def stream_error(error: Exception) -> ObjectCacheError:
    """What a stream's end means to the deliveries on it."""
    if isinstance(error, ObjectCacheError):
        return error
    return GatewayUnavailableError(f"the data connection broke: {error}")
