"""One delivery on its way: the spans that are ready to be sent, and those that streams are in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from objectcache.delivery import Delivery
from objectcache.errors import ObjectCacheError
from objectcache.frames import MAX_FRAME_BYTES, Frame, FrameType, error_frame
from objectcache.transports.sockets import Body
from objectcache.transports.source import Outgoing

READY_BYTES = 8 << 20
READY_SPANS = 32
"""How much of a delivery from far is at hand ahead of the streams: open files, or memory where there are none."""


class ReadySpan:
    """Frames that stay in order on one stream; `body` is the first one's, where it is at hand already."""

    def __init__(self, frames: list[Outgoing], body: Body | None = None) -> None:
        self.frames = deque(frames)
        self.body = body
        self.wire_bytes = sum(outgoing.wire_bytes for outgoing in frames)

    def drop(self) -> None:
        if self.body is not None:
            self.body.close()


class Stretch:
    """Frames whose bytes follow one another in an object."""

    __slots__ = ("data_bytes", "frames")

    def __init__(self, first: Outgoing) -> None:
        self.frames = [first]
        self.data_bytes = first.frame.data_bytes

    def add(self, outgoing: Outgoing) -> bool:
        """False: its bytes are elsewhere."""
        first = self.frames[0]
        if outgoing.reader is not first.reader or outgoing.offset != first.offset + self.data_bytes:
            return False
        self.frames.append(outgoing)
        self.data_bytes += outgoing.frame.data_bytes
        return True


class Turn(NamedTuple):
    """Frames that go out one after the other on one stream; `body` are their bytes, where they are at hand already."""

    stretches: list[Stretch]
    wire_bytes: int
    body: Body | None

    def hold(self, stack: ExitStack) -> list[Body]:
        """The bytes of each stretch, at hand until `stack` ends.

        Raises SegmentGoneError, IntegrityError, StoreError.
        """
        if self.body is not None:
            return [stack.enter_context(self.body)]
        return [stack.enter_context(stretch.frames[0].hold(stretch.data_bytes)) for stretch in self.stretches]


class ActiveDelivery:
    """One delivery on its way over a session's streams. Guarded by the session's lock, but for `next_span`."""

    def __init__(
        self,
        delivery: int,
        epoch: int,
        state: Delivery,
        spans: Iterator[list[Outgoing]],
        on_over: Callable[[ObjectCacheError | None], None],
        *,
        far: bool = False,
        turn_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        """`on_over(error)` is called once, when every stream has had its last word. `far`: the store is.

        `turn_bytes` is what a stream may send of it in one go while no other delivery waits.
        """
        self.delivery = delivery
        self.epoch = epoch
        self.state = state
        self.on_over = on_over
        self.far = far
        self.turn_bytes = turn_bytes
        self.begun = False
        self.over = False
        self.preparing = far
        self._spans = spans
        self._exhausted = False
        self._ready: deque[ReadySpan] = deque()
        self._ready_bytes = 0
        self._current: dict[int, ReadySpan] = {}

    def next_span(self) -> list[Outgoing] | None:
        """Reads the store: for one thread at a time, without the lock. None when there are no more."""
        return next(self._spans, None)

    def offer(self, spans: Iterable[ReadySpan], *, last: bool = False) -> None:
        """`spans` are ready for streams to take; `last`: there are no more."""
        self._exhausted = self._exhausted or last
        for span in spans:
            if self.over:
                span.drop()
            else:
                self._ready.append(span)
                self._ready_bytes += span.wire_bytes

    @property
    def wants_more(self) -> bool:
        """Whether what is ready is little; for the thread of a delivery from far."""
        return self._ready_bytes < READY_BYTES and len(self._ready) < READY_SPANS

    @property
    def ended(self) -> bool:
        """Nobody will take any more spans."""
        return self.over or self.state.stopping

    def is_ready(self, stream: int) -> bool:
        """Whether `peek` can tell."""
        return bool(self._current.get(stream) or self._ready or self._exhausted or self.state.stopping)

    def peek(self, stream: int) -> Outgoing | None:
        """The frame that would go out next on `stream`; None when there is none left for it."""
        span = self._current.get(stream) or (self._ready[0] if self._ready else None)
        return span.frames[0] if span else None

    def most_bytes(self, moment_bytes: int) -> int:
        """Of a turn that may take a moment, in which a stream sends `moment_bytes`; bounded by credit too.

        What comes from far is at hand frame by frame.
        """
        return 0 if self.far else self.state.within_credit(min(self.turn_bytes, moment_bytes))

    def take_turn(self, stream: int, most_bytes: int) -> Turn:
        """The frame that `peek` showed, and those after it up to `most_bytes`."""
        first, body = self._take(stream)
        stretches, wire_bytes = [Stretch(first)], first.wire_bytes
        while body is None and (following := self.peek(stream)) is not None:
            if wire_bytes + following.wire_bytes > most_bytes:
                break
            self._take(stream)
            wire_bytes += following.wire_bytes
            if not stretches[-1].add(following):
                stretches.append(Stretch(following))
        return Turn(stretches, wire_bytes, body)

    def _take(self, stream: int) -> tuple[Outgoing, Body | None]:
        span = self._current.pop(stream, None)
        if span is None:
            span = self._ready.popleft()
            self._ready_bytes -= span.wire_bytes
        outgoing, body, span.body = span.frames.popleft(), span.body, None
        if span.frames:
            self._current[stream] = span
        return outgoing, body

    def drop(self) -> None:
        """It is over: let go of what is ready."""
        self.over = True
        for span in self._ready:
            span.drop()
        self._ready.clear()

    def last_word(self) -> bytes:
        kind = self.state.last_word()
        if kind is FrameType.ERROR:
            assert self.state.error is not None
            return error_frame(self.delivery, self.epoch, self.state.error)
        return Frame(kind, self.delivery, self.epoch).encode()
