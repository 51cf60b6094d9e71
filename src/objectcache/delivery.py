"""The life of a delivery, on both sides, as pure state machines: events in, decisions out, no I/O, time passed in.

The sender's `Delivery` says what may be sent and how each stream of it ends. The receiver's `Reception` says where a
frame lands, which sections are complete, and when nothing writes the destination any more (it is fenced). Neither
locks: its owner does.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from objectcache.errors import DeliveryCancelledError, DeliveryError, DeliveryTimeoutError, ObjectCacheError
from objectcache.frames import PIECE, Frame, FrameType
from objectcache.layout import DeliveryGeometry

_SpanId = tuple[int, int, int, int]


class Verdict(Enum):
    """What a stream may do next for a delivery."""

    SEND = auto()
    WAIT = auto()  # for credit
    CLOSE = auto()  # say the last word on this stream


class Delivery:
    """The sending side of one descriptor over `streams` streams."""

    def __init__(self, *, streams: int, credit_bytes: int, deadline_s: float) -> None:
        """`credit_bytes` 0 is no bound; `deadline_s` is on the caller's clock."""
        self._open = set(range(streams))
        self._in_frame: set[int] = set()
        self._credit: int | None = credit_bytes or None
        self._claimed_bytes = 0
        self.deadline_s = deadline_s
        self._cancelled = False
        self.error: ObjectCacheError | None = None
        self.sent_bytes = 0

    def verdict(self, next_bytes: int | None, now_s: float) -> Verdict:
        """Whether a stream may send its next frame, of `next_bytes`; None: there is none left for it."""
        if next_bytes is None or self.stopping:
            return Verdict.CLOSE
        if now_s >= self.deadline_s:
            self.fail(DeliveryTimeoutError("the delivery's deadline has passed"))
            return Verdict.CLOSE
        if self._credit is not None and self.sent_bytes + self._claimed_bytes + next_bytes > self._credit:
            return Verdict.WAIT
        return Verdict.SEND

    def within_credit(self, wanted_bytes: int) -> int:
        """As much of `wanted_bytes` as may be sent now."""
        if self._credit is None:
            return wanted_bytes
        return min(wanted_bytes, self._credit - self.sent_bytes - self._claimed_bytes)

    def claim(self, frame_bytes: int) -> None:
        """A stream has taken a frame, and brings its bytes to hand: credit is used up, but nothing is sent yet."""
        self._claimed_bytes += frame_bytes

    def unclaim(self, frame_bytes: int) -> None:
        """What was claimed begins now, or will not."""
        self._claimed_bytes -= frame_bytes

    def begin(self, stream: int, frame_bytes: int) -> None:
        """A frame goes out on `stream`. From here to `finish` it cannot be recalled."""
        self._in_frame.add(stream)
        self.sent_bytes += frame_bytes

    def finish(self, stream: int) -> None:
        self._in_frame.discard(stream)

    def grant(self, total_bytes: int) -> None:
        """The receiver allows `total_bytes` since the start. Never less than before: grants can arrive out of order."""
        if self._credit is not None:
            self._credit = max(self._credit, total_bytes)

    def cancel(self) -> None:
        self._cancelled = True

    def fail(self, error: ObjectCacheError) -> None:
        if self.error is None:
            self.error = error

    def lose(self, stream: int) -> None:
        """`stream` broke: its receiver cannot get all of it any more."""
        self._open.discard(stream)
        self._in_frame.discard(stream)
        self.fail(DeliveryError("a data connection of the delivery broke"))

    @property
    def stopping(self) -> bool:
        return self._cancelled or self.error is not None

    def last_word(self) -> FrameType:
        """How a stream of this delivery ends now."""
        if self._cancelled:
            return FrameType.CANCELLED
        return FrameType.END if self.error is None else FrameType.ERROR

    @property
    def outcome(self) -> ObjectCacheError | None:
        """What it ended with; None when everything was sent."""
        return DeliveryCancelledError("the delivery was cancelled") if self._cancelled else self.error

    def close(self, stream: int) -> None:
        """`stream` has said its last word."""
        self._open.discard(stream)
        self._in_frame.discard(stream)

    def is_open(self, stream: int) -> bool:
        return stream in self._open

    @property
    def fenced(self) -> bool:
        """Nothing more of this delivery will be written, on any stream."""
        return not self._open and not self._in_frame

    @property
    def quiet(self) -> bool:
        """Stopping, and no frame is under way: nothing more will be written but last words."""
        return self.stopping and not self._in_frame


class Reception:
    """The receiving side of one delivery, into one destination."""

    _geometry: DeliveryGeometry
    _missing_chunks: list[int]

    def __init__(
        self, geometry: DeliveryGeometry | None, epoch: int, streams: int, from_layer: int = 0, *, shared: bool = False
    ) -> None:
        """`shared`: it is the sender that writes the destination, whenever it likes until its last word.

        `geometry` None: not known before `shape`. Until then only last words are taken, and data once it has stopped.
        """
        self._shared = shared
        self.epoch = epoch
        self._open = set(range(streams))
        self._writing: set[int] = set()
        self._span_progress: dict[int, tuple[_SpanId, int]] = {}
        self._cancelled = False
        self.error: ObjectCacheError | None = None
        self._from_layer = from_layer
        self._seen: dict[tuple[int, int], bytearray] = {}
        self.verified_bytes = 0
        self.missing_sections = 1
        if geometry is not None:
            self.shape(geometry)

    def shape(self, geometry: DeliveryGeometry) -> None:
        """What is to come, and where it lies."""
        self._geometry = geometry
        self._missing_chunks = geometry.sections.wanted_chunks(self._from_layer)
        self.missing_sections = sum(1 for missing in self._missing_chunks if missing)

    def begin(self, stream: int, frame: Frame) -> int | None:
        """Where in the destination this DATA frame lands (byte offset); None: read it and throw it away.

        Raises DeliveryError for a frame that this delivery cannot have: the stream must then be given up.
        """
        if self.stopped or frame.epoch != self.epoch:
            return None
        seen = self._seen_of(frame)
        size = self._slice_bytes(frame)
        end = frame.span_offset + frame.data_bytes
        begun, progress = self._span_progress.get(stream, (_span_of(frame), 0))
        if begun != _span_of(frame) or frame.span_offset != progress or end > size * frame.num_chunks:
            raise DeliveryError("a frame does not continue its span")
        if not frame.data_bytes or frame.extra not in (0, frame.num_chunks - 1):
            raise DeliveryError("a frame is empty, or its digests are not one per slice")
        if frame.span_offset == 0:
            self._mark(seen, frame)
        self._writing.add(stream)
        return self._offset(frame) + frame.span_offset

    def place(self, stream: int, frame: Frame) -> int | None:
        """Where in the destination the data of a PLACED frame lies (byte offset), to be verified until `finish`; None:
        nobody wants it any more. Raises like `begin`.
        """
        if self.stopped or frame.epoch != self.epoch:
            return None
        seen = self._seen_of(frame)
        if frame.data_bytes != frame.num_chunks * self._slice_bytes(frame):
            raise DeliveryError("a frame is not of whole slices")
        if not frame.span_offset or frame.extra != (frame.num_chunks - 1) // frame.span_offset:
            raise DeliveryError("a frame does not have the digests of its chunks")
        self._mark(seen, frame)
        self._writing.add(stream)
        return self._offset(frame)

    def _seen_of(self, frame: Frame) -> bytearray:
        """Which chunks have come, of the frame's part and layer. Raises DeliveryError for what was not asked for."""
        at = frame.part, frame.layer
        seen = self._seen.get(at)
        if seen is None:
            geometry = self._geometry
            if frame.layer < self._from_layer or frame.part not in geometry.parts_of(frame.layer):
                raise DeliveryError(f"a frame names part {frame.part}, layer {frame.layer}, which were not asked for")
            shape = geometry.parts[frame.part]
            held = shape.held_chunks(frame.layer)
            seen = self._seen[at] = bytearray(b"\1" * held + bytes(shape.num_chunks - held))
        first, stop = frame.first_chunk, frame.first_chunk + frame.num_chunks
        if not first < stop <= len(seen):
            raise DeliveryError(f"a frame names chunks [{first}, {stop}) of {len(seen)}")
        return seen

    def _mark(self, seen: bytearray, frame: Frame) -> None:
        first, stop = frame.first_chunk, frame.first_chunk + frame.num_chunks
        if 1 in seen[first:stop]:
            raise DeliveryError(f"chunks [{first}, {stop}) of layer {frame.layer} were sent twice")
        seen[first:stop] = b"\1" * (stop - first)

    def _offset(self, frame: Frame) -> int:
        return self._geometry.offset(frame.part, frame.layer) + frame.first_chunk * self._slice_bytes(frame)

    def _slice_bytes(self, frame: Frame) -> int:
        shape = self._geometry.parts[frame.part]
        return shape.slice_bytes[self._geometry.position(frame.part, frame.layer)]

    def span_complete(self, stream: int, frame: Frame) -> bool:
        """The frame's data has been read; whether its span now is whole and to be verified."""
        end = frame.span_offset + frame.data_bytes
        if end < self._slice_bytes(frame) * frame.num_chunks:
            self._span_progress[stream] = (_span_of(frame), end)
            return False
        self._span_progress.pop(stream, None)
        return True

    def finish(self, stream: int, frame: Frame, verified_bytes: int) -> tuple[int, ...]:
        """`stream` is done with the frame; `verified_bytes` is its span's size once verified, otherwise 0.

        The sections that are complete by it.
        """
        self._writing.discard(stream)
        if self.stopped or not verified_bytes:
            return ()
        self.verified_bytes += verified_bytes
        complete = []
        for section, chunks in self._touched(frame):
            self._missing_chunks[section] -= chunks
            if not self._missing_chunks[section]:
                complete.append(section)
        self.missing_sections -= len(complete)
        return tuple(complete)

    def _touched(self, frame: Frame) -> Sequence[tuple[int, int]]:
        return self._geometry.sections.touched(frame.part, frame.layer, frame.first_chunk, frame.num_chunks)

    def end(self, stream: int, frame: Frame, error: ObjectCacheError | None = None) -> None:
        """The sender's last word on `stream`: END, CANCELLED or ERROR."""
        if frame.epoch != self.epoch:
            return
        self._open.discard(stream)
        self._writing.discard(stream)
        if frame.type is FrameType.ERROR:
            self.fail(error or DeliveryError("the delivery failed"))
        elif frame.type is FrameType.CANCELLED:
            self.fail(DeliveryCancelledError("the delivery was cancelled"))
        elif not self._open and not self.complete:
            self._ended_early()

    def _ended_early(self) -> None:
        self.fail(DeliveryError("the delivery ended before all of its layers had arrived"))

    def missed(self) -> list[int]:
        """Sections that are complete by what others have received, and were not told of."""
        return []

    def lose(self, stream: int, error: ObjectCacheError) -> None:
        """`stream` is gone, and with it what it was writing."""
        was_open = stream in self._open
        self._open.discard(stream)
        self._writing.discard(stream)
        if was_open:
            self.fail(error)

    def fail(self, error: ObjectCacheError) -> None:
        if self.error is None and not self.complete:
            self.error = error

    def cancel(self) -> None:
        self._cancelled = True

    def withdraw(self, error: ObjectCacheError) -> None:
        """The sender was never told of it, or has refused it."""
        self._open.clear()
        self.fail(error)

    @property
    def stopped(self) -> bool:
        return self._cancelled or self.error is not None

    @property
    def complete(self) -> bool:
        """Everything has landed and is verified."""
        return self.missing_sections == 0

    @property
    def fenced(self) -> bool:
        """Nothing writes the destination, now or later: it may be used again."""
        return not self._writing and (self.complete or (self.stopped and not (self._shared and self._open)))

    @property
    def writing(self) -> frozenset[int]:
        """Streams in the middle of a frame, or whose sender has not let go: what a fence waits for."""
        return frozenset(self._writing | self._open if self._shared and not self.complete else self._writing)


def _span_of(frame: Frame) -> _SpanId:
    return frame.part, frame.layer, frame.first_chunk, frame.num_chunks


def is_piece(frame: Frame) -> bool:
    """Whether the frame's digest is of its whole span."""
    return bool(frame.flags & PIECE)
