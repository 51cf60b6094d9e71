"""The receiving side: word of placements in, layers verified where they lie."""

from __future__ import annotations

from objectcache.delivery import is_piece
from objectcache.errors import DeliveryError, IntegrityError, ObjectCacheError
from objectcache.frames import (
    FRAME_HEADER_BYTES,
    MAX_CONTROL_BYTES,
    MAX_EXTRA_DIGESTS,
    Frame,
    FrameType,
    decode_error,
    decode_frame,
)
from objectcache.layout import DIGEST_BYTES
from objectcache.transports.receiver import Expected, Receiver, RecvExact

_LAST_WORDS = (FrameType.END, FrameType.CANCELLED, FrameType.ERROR)


class PlacedReceiver(Receiver):
    """The deliveries that a worker places in this process's memory. Thread-safe.

    Their memory is the worker's to write until each stream has had its last word of them, or its end.
    """

    def withdraw(self, delivery: int, error: ObjectCacheError) -> None:
        """The worker was never told of the delivery."""
        with self._lock:
            expected = self._expected.get(delivery)
            if expected is not None:
                expected.reception.withdraw(error)
                self._came.notify_all()
        if expected is not None:
            self._settle(expected)

    def fail_all(self, error: ObjectCacheError) -> None:
        """Nothing more will land, but may still be written."""
        with self._lock:
            affected = list(self._expected.values())
            for expected in affected:
                expected.reception.fail(error)
            self._came.notify_all()
        for expected in affected:
            self._settle(expected)

    def run(self, stream: int, recv_exact: RecvExact, *, until_end_of: int | None = None) -> None:
        header = memoryview(bytearray(FRAME_HEADER_BYTES))
        scratch = memoryview(bytearray(MAX_EXTRA_DIGESTS * DIGEST_BYTES))
        while True:
            recv_exact(header)
            frame = decode_frame(header)
            placed = frame.type is FrameType.PLACED
            if not placed and (frame.type not in _LAST_WORDS or frame.data_bytes > MAX_CONTROL_BYTES):
                raise DeliveryError(f"a worker that places does not send {frame.type.name} frames like that")
            payload = scratch[: frame.extra * DIGEST_BYTES if placed else frame.data_bytes]
            if payload:
                recv_exact(payload)
            self.take(stream, frame, bytes(payload))
            if not placed and frame.delivery == until_end_of:
                return

    def take(self, stream: int, frame: Frame, payload: bytes) -> None:
        """Word on `stream` of a placement, or the last of a delivery; for one thread at a time. `payload` follows the
        frame. Raises DeliveryError for what no worker says."""
        if frame.type is FrameType.PLACED:
            self._placed(stream, frame, frame.digest + payload)
        else:
            self._last_word(stream, frame, decode_error(payload) if payload else None)

    def _placed(self, stream: int, frame: Frame, digests: bytes) -> None:
        with self._lock:
            expected = self._find(frame.delivery, frame.epoch)
            offset = expected.reception.place(stream, frame) if expected else None
        if expected is None or offset is None:
            return
        wrong = self._first_wrong(expected, frame, digests, offset)
        error = None
        if wrong is not None:
            error = IntegrityError(
                f"layer {frame.layer}, chunks {wrong.first_chunk} to {wrong.first_chunk + wrong.num_chunks - 1}: "
                "what was placed is not what was committed"
            )
        with self._lock:
            if error is not None:
                expected.reception.fail(error)
            complete = expected.reception.finish(stream, frame, 0 if error else frame.data_bytes)
            expected.telling += bool(complete)
        if complete or expected.reception.stopped:
            self._settle(expected, complete)

    def _first_wrong(self, expected: Expected, frame: Frame, digests: bytes, offset: int) -> Frame | None:
        """The first span that is checked and does not verify, as a DATA frame would tell of it."""
        first_layer = frame.layer == expected.first_layer
        per_digest = frame.span_offset if is_piece(frame) else frame.num_chunks
        size = frame.data_bytes // frame.num_chunks
        for at in range(0, frame.num_chunks, per_digest):
            if not self._verify.wants(first_layer=first_layer):
                continue
            count = min(per_digest, frame.num_chunks - at)
            span = frame._replace(first_chunk=frame.first_chunk + at, num_chunks=count)
            number = at // per_digest
            found = digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES] if is_piece(frame) else digests
            begin = offset + at * size
            if not self._verified(expected, span, found, expected.memory[begin : begin + count * size]):
                return span
        return None
