"""One delivery on its way: the spans that are ready to be sent, and those that streams are in."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from types import TracebackType
from typing import NamedTuple

from objectcache.delivery import Delivery
from objectcache.errors import ObjectCacheError
from objectcache.frames import MAX_FRAME_BYTES, Frame, FrameType, error_frame
from objectcache.transports.pacing import Pace
from objectcache.transports.sent_times import SentTimes
from objectcache.transports.sockets import Body, send_head
from objectcache.transports.source import Outgoing
from objectcache.transports.tapering import Tapering

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
        self.data_bytes = first.data_bytes

    def add(self, outgoing: Outgoing) -> bool:
        """False: its bytes are elsewhere."""
        first = self.frames[0]
        if outgoing.reader is not first.reader or outgoing.offset != first.offset + self.data_bytes:
            return False
        self.frames.append(outgoing)
        self.data_bytes += outgoing.data_bytes
        return True


class Turn(NamedTuple):
    """Frames that go out one after the other on one stream; `body` are their bytes, where they are at hand already."""

    stretches: list[Stretch]
    wire_bytes: int
    body: AbstractContextManager[Body] | None

    @property
    def data_bytes(self) -> int:
        return sum(stretch.data_bytes for stretch in self.stretches)

    @property
    def layers(self) -> list[int]:
        """In the order in which they are in it."""
        frames = (outgoing.frame for stretch in self.stretches for outgoing in stretch.frames)
        return list(dict.fromkeys(frame.layer for frame in frames))

    def hold(self, stack: ExitStack) -> list[Body]:
        """The bytes of each stretch, at hand until `stack` ends.

        Raises SegmentGoneError, IntegrityError, StoreError.
        """
        if self.body is not None:
            return [stack.enter_context(self.body)]
        return [stack.enter_context(stretch.frames[0].hold(stretch.data_bytes)) for stretch in self.stretches]


Steps = Callable[[int], Iterable[int]]
"""In which steps so many bytes go out; each is asked for when the one before it has."""


def at_once(data_bytes: int) -> Iterable[int]:
    return (data_bytes,)


class HeldTurn(AbstractContextManager["HeldTurn"]):
    """A turn whose bytes are at hand until it is closed."""

    def __init__(self, turn: Turn) -> None:
        """Raises SegmentGoneError, IntegrityError, StoreError."""
        self.turn = turn
        self._told_bytes = 0
        with ExitStack() as stack:
            self._bodies = turn.hold(stack)
            self._stack = stack.pop_all()

    @property
    def wire_bytes(self) -> int:
        return self.turn.wire_bytes

    def announce(self, sock: socket.socket) -> None:
        """The first frame's head on its own, as far as `sock` takes it at once."""
        with suppress(OSError):  # whoever sends the rest meets it too
            self._told_bytes = sock.send(self.turn.stretches[0].frames[0].head, socket.MSG_DONTWAIT)

    def send(self, sock: socket.socket, steps: Steps = at_once) -> None:
        """All that was not announced, the data of each frame in `steps`. Raises OSError, IntegrityError (a file was cut
        short), and what `steps` raises."""
        for stretch, body in zip(self.turn.stretches, self._bodies, strict=True):
            for outgoing in stretch.frames:
                send_head(sock, outgoing.head[self._told_bytes :])
                self._told_bytes = 0
                for step_bytes in steps(outgoing.data_bytes):
                    body.send(sock, step_bytes)

    def close(self) -> None:
        self._stack.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
        tapering: Tapering | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`on_over(error)` is called once, when every stream has had its last word. `far`: the store is.

        `turn_bytes` is what a stream may send of it in one go while no other delivery waits, less where `tapering` says
        so. `pace`: how fast it may be sent; it may get one later.
        """
        self.delivery = delivery
        self.epoch = epoch
        self.state = state
        self.on_over = on_over
        self.far = far
        self.turn_bytes = turn_bytes
        self._tapering = tapering
        self.pace = pace
        self.times: SentTimes | None = None
        """Where it is noted when what was sent, if anybody wants to know."""
        self.begun = False
        self.over = False
        self.preparing = far
        self._spans = spans
        self._exhausted = False
        self._ready: deque[ReadySpan] = deque()
        self._ready_bytes = 0
        self._turns = 0
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

    def is_short(self, stream: int, streams: int) -> bool:
        """Whether `stream`, of so many, should make spans ready before it sends, while others have some left. In the
        beginning each sends first."""
        if self.preparing or self._exhausted or self.state.stopping or stream in self._current:
            return False
        return not self._ready or (self._turns > streams and 2 * self._ready_bytes < streams * self.turn_bytes)

    def peek(self, stream: int) -> Outgoing | None:
        """The frame that would go out next on `stream`; None when there is none left for it."""
        span = self._current.get(stream) or (self._ready[0] if self._ready else None)
        return span.frames[0] if span else None

    def most_bytes(self, moment_bytes: int) -> float:
        """Of data in a turn that may take a moment, in which a stream sends `moment_bytes`.

        What comes from far is at hand frame by frame.
        """
        if self.far:
            return 0
        most_bytes: float = self.turn_bytes if self.turn_bytes < moment_bytes else moment_bytes
        if self._tapering is not None and self._tapering.most_bytes < most_bytes:
            return self._tapering.most_bytes
        return most_bytes

    def take_turn(self, stream: int, most_bytes: float, cut_bytes: int = 0) -> Turn:
        """The frame that `peek` showed, or `cut_bytes` of it if that is less, and those after it up to `most_bytes` of
        data, within credit."""
        self._turns += 1
        first, body = self._take(stream, cut_bytes)
        stretches, data_bytes, wire_bytes = [Stretch(first)], first.data_bytes, first.wire_bytes
        while body is None and (following := self.peek(stream)) is not None:
            more_bytes = wire_bytes + following.wire_bytes
            if data_bytes + following.data_bytes > most_bytes or self.state.within_credit(more_bytes) < more_bytes:
                break
            self._take(stream, 0)
            data_bytes, wire_bytes = data_bytes + following.data_bytes, more_bytes
            if not stretches[-1].add(following):
                stretches.append(Stretch(following))
        if self._tapering is not None:
            self._tapering.take(data_bytes)
        return Turn(stretches, wire_bytes, body)

    def _take(self, stream: int, cut_bytes: int) -> tuple[Outgoing, AbstractContextManager[Body] | None]:
        span = self._current.pop(stream, None)
        if span is None:
            span = self._ready.popleft()
            self._ready_bytes -= span.wire_bytes
        if 0 < cut_bytes < span.frames[0].data_bytes:
            outgoing, span.frames[0] = span.frames[0].cut(cut_bytes)
            self._current[stream] = span
            return outgoing, nullcontext(span.body) if span.body is not None else None
        outgoing, body, span.body = span.frames.popleft(), span.body, None
        if span.frames:
            self._current[stream] = span
        return outgoing, body

    def drop(self) -> None:
        """It is over: let go of what is ready."""
        self.over = True
        for span in (*self._ready, *self._current.values()):
            span.drop()
        self._ready.clear()
        self._current.clear()

    def last_word(self) -> bytes:
        kind = self.state.last_word()
        if kind is FrameType.ERROR:
            assert self.state.error is not None
            return error_frame(self.delivery, self.epoch, self.state.error)
        return Frame(kind, self.delivery, self.epoch).encode()
