"""The sending side of deliveries over one or more byte streams: a thread per stream, no event loop.

Streams of a session take spans from the deliveries in turn, so that none blocks the others, and each delivery in its
own order. What may be sent is `delivery.Delivery`'s decision; here is only the doing.

The store is never read under the session's lock, and no frame is begun before its bytes are at hand: what goes wrong in
a store fails a delivery, not the session (`supplying`).
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from math import inf
from typing import NamedTuple

from objectcache.delivery import Verdict
from objectcache.errors import DeliveryError, ObjectCacheError
from objectcache.transports import supplying
from objectcache.transports.active import ActiveDelivery, HeldTurn, Turn, at_once
from objectcache.transports.pacing import Pace
from objectcache.transports.sockets import send_all
from objectcache.transports.stepping import paced_steps

TURN_S = 0.002
"""How long a stream may send one delivery in one go, at the rate of its last turn: who comes meanwhile waits."""

REAP_GRACE_S = 2.0
"""How long after its deadline a delivery may still be stuck in a frame before its stream is cut."""


class _Do(Enum):
    """What a stream does next for a delivery."""

    PREPARE = auto()
    SEND = auto()
    LAST_WORD = auto()


class _Step(NamedTuple):
    do: _Do
    active: ActiveDelivery
    turn: Turn | None = None


class SenderSession:
    """The streams of one receiver, and the deliveries that share them."""

    announces = True
    """Whether a delivery's first frame begins with a head that leaves ahead of the rest."""
    places = False
    """Whether it writes the receiver's memory itself."""

    leads = True
    """Whether credit for its deliveries is counted here, and not where its receiver's other streams are served."""

    def __init__(self, streams: int, on_lost: Callable[[], None] = lambda: None, *, once: bool = False) -> None:
        """`on_lost()` is called when the last stream is gone. `once`: the streams are left as they are, open, after the
        first delivery that ends well on them (an HTTP connection goes on after a response)."""
        self.once = once
        self._changed = threading.Condition()
        self._sockets: list[socket.socket | None] = [None] * streams
        self._active: deque[ActiveDelivery] = deque()
        self._busy_until: dict[int, float] = {}
        self._bytes_s: dict[int, float] = {}
        self._on_lost = on_lost
        self._closed = False
        self._served = False
        self._any_paced = self._timed = False
        self._early_pace: Callable[[int], Pace] | None = None
        self._relying = 0
        """Streams that wait for a delivery's rate without looking at the clock, since another does."""
        self._borrowed = False
        """Whether another thread uses stream 0; what is left to do there, or went wrong, it returns as `_returned`."""
        self._returned: _Step | Exception | None = None

    @property
    def streams(self) -> int:
        return len(self._sockets)

    def attach(self, stream: int, sock: socket.socket) -> bool:
        """Stream `stream` is connected; the session owns the socket from here. False: it is turned away, closed."""
        with self._changed:
            if self._closed or not 0 <= stream < len(self._sockets) or self._sockets[stream] is not None:
                sock.close()
                return False
            self._sockets[stream] = sock
        threading.Thread(target=self._run, args=(stream, sock), name=f"stream-{stream}", daemon=True).start()
        return True

    def add(self, active: ActiveDelivery) -> None:
        """Deliver it, beside what is under way."""
        self._enter(active, announces=False)

    def begin(self, active: ActiveDelivery) -> Callable[[], None] | None:
        """As `add`. What is returned is to be called at once: it reads the store and sends what comes first, sooner
        than a thread that has to be woken. It may wait, for the store and the receiver."""
        return self._enter(active, announces=self.announces)

    def _enter(self, active: ActiveDelivery, *, announces: bool) -> Callable[[], None] | None:
        with self._changed:
            if not self._closed:
                self._active.append(active)
                if self._early_pace is not None and active.pace is None:
                    active.pace = self._early_pace(0)
                self._any_paced = self._any_paced or active.pace is not None
                sock = self._borrow(active) if announces else None
                if sock is None:
                    self._changed.notify_all()
                if active.far:
                    supplying.feed(active, self._changed)
                return None if sock is None else partial(self._begin_borrowed, sock, active)
        active.on_over(DeliveryError("the data session has ended"))
        return None

    def _borrow(self, active: ActiveDelivery) -> socket.socket | None:
        """Stream 0, if its thread has nothing to do, until `_begin_borrowed` returns it. Under the lock."""
        if active.far or len(self._active) > 1:
            return None
        sock = self._sockets[0]
        if sock is not None:
            active.preparing = self._borrowed = True
        return sock

    def _begin_borrowed(self, sock: socket.socket, active: ActiveDelivery) -> None:
        """The first turn of a delivery, on the stream that `_borrow` gave, which is returned then; where nothing may be
        sent yet, at once."""
        returned: _Step | Exception | None = None
        try:
            supplying.first(active, self._changed)
            with self._changed:
                step = self._step(0, active, time.monotonic())
            held = None
            if step is None or step.turn is None:
                returned = step
            else:
                held = self._hold(0, active, step.turn)
            if held is not None:
                held.announce(sock)
            supplying.second(active, self._changed, self.streams)
            if held is not None:
                self._send_held(0, sock, active, held)
                self._done(0, active, last=False)
        except (OSError, ObjectCacheError) as error:
            returned = error
        finally:
            with self._changed:
                self._borrowed, self._returned = False, returned
                self._changed.notify_all()

    def set_pace(self, delivery: int, epoch: int, make: Callable[[int], Pace]) -> None:
        """From now on the delivery goes by `make(bytes sent so far)`, if it is still under way."""
        with self._changed:
            for active in self._active:
                if (active.delivery, active.epoch) == (delivery, epoch):
                    active.pace = make(active.state.sent_bytes)
                    self._any_paced = True
                    return
            if self.once:
                self._early_pace = make  # its head is still on its way

    def fail(self, delivery: int, epoch: int, error: ObjectCacheError) -> None:
        """Whoever sends the rest of it could not: its streams here end with `error` too."""
        with self._changed:
            for active in self._active:
                if (active.delivery, active.epoch) == (delivery, epoch):
                    active.state.fail(error)
            self._changed.notify_all()

    def cancel(self, delivery: int, epoch: int, timeout_s: float) -> bool:
        """Stop a delivery. True when nothing more of it will be written but last words, within `timeout_s`."""
        until = time.monotonic() + timeout_s
        with self._changed:
            found = next((a for a in self._active if (a.delivery, a.epoch) == (delivery, epoch)), None)
            if found is None:
                return True
            found.state.cancel()
            self._changed.notify_all()
            while not (found.state.quiet or found.state.fenced):
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True

    def grant(self, delivery: int, epoch: int, total_bytes: int) -> None:
        with self._changed:
            for active in self._active:
                if (active.delivery, active.epoch) == (delivery, epoch):
                    active.state.grant(total_bytes)
            self._changed.notify_all()

    def reap(self, now_s: float) -> None:
        """Cut streams that are stuck in a frame of a delivery that is long over its deadline."""
        with self._changed:
            for stream, until_s in self._busy_until.items():
                sock = self._sockets[stream]
                if sock is not None and now_s > until_s + REAP_GRACE_S:
                    _cut(sock)

    def close(self) -> None:
        """Cut every stream; deliveries under way fail."""
        with self._changed:
            # Without any stream (a connection that ended before it was attached) no stream tells that it is lost.
            untold = not self._closed and all(sock is None for sock in self._sockets)
            self._closed = True
            for active in self._active if self.once else ():
                active.state.fail(DeliveryError("the response was given up"))  # it may be paused within a frame
            for stream, sock in enumerate(self._sockets):
                if sock is not None:
                    _cut(sock)
                    continue
                for active in self._active:
                    active.state.lose(stream)  # it will never be attached
            over = self._retire()
            self._changed.notify_all()
        _tell(over)
        if untold:
            self._on_lost()

    @property
    def idle(self) -> bool:
        return not self._active

    # -- a stream's thread ------------------------------------------------------------------------

    def _run(self, stream: int, sock: socket.socket) -> None:
        try:
            sent: ActiveDelivery | None = None
            while (step := self._next(stream, sent)) is not None:
                sent = None
                if step.do is _Do.PREPARE:
                    supplying.prepare(step.active, self._changed, self.streams)
                elif step.turn is not None:
                    sent = step.active if self._send(stream, sock, step.active, step.turn) else None
                else:
                    self._send_last_word(stream, sock, step.active)
                    self._done(stream, step.active, last=True)
        except OSError:
            self._lose(stream, sock, None)
        except ObjectCacheError as error:
            # A frame that was begun cannot be completed: the stream is out of step, and the receiver must notice.
            self._lose(stream, sock, error)
        except BaseException:
            self._lose(stream, sock, DeliveryError("a stream ended by a fault of the sender's own"))
            raise
        else:
            if self.once and not self._closed:  # it ended well
                sock.close()
            else:
                self._lose(stream, sock, None)

    def _next(self, stream: int, sent: ActiveDelivery | None) -> _Step | None:
        """What to do next on `stream`, which has `sent` a turn; waits for it. None when the session is closed.

        Both under one hold of the lock: to get it, and the interpreter's, is much of what a turn costs.
        """
        with self._changed:
            over = [] if sent is None else self._settle(stream, sent, last=False)
            if not over:
                step = self._await_step(stream)
                if self._any_paced:
                    self._changed.notify()  # another stream may have to look at the clock now, or find nothing left
                return step
        _tell(over)
        return self._next(stream, None)

    def _await_step(self, stream: int) -> _Step | None:
        while True:
            if stream == 0 and self._borrowed:
                if self._any_paced:
                    self._changed.notify()  # what woke this one was for whoever may look at the clock
                self._changed.wait()
                continue
            if stream == 0 and self._returned is not None:
                returned, self._returned = self._returned, None
                if isinstance(returned, Exception):
                    raise returned
                return returned
            if self._closed or (self.once and self._served and not self._active):
                return None
            now_s = time.monotonic()
            for _ in range(len(self._active)):
                active = self._active[0]
                self._active.rotate(-1)
                step = self._step(stream, active, now_s)
                if step is not None:
                    return step
            opened = [active for active in self._active if active.state.is_open(stream)]
            wake_s = min((active.state.deadline_s for active in opened), default=inf)
            if self._any_paced and not self._timed:
                self._wait_paced(opened, now_s, wake_s)
                continue
            relies = self._any_paced and bool(opened)
            self._relying += relies
            self._changed.wait(None if wake_s == inf else max(0.0, wake_s - now_s))
            self._relying -= relies

    def _wait_paced(self, opened: list[ActiveDelivery], now_s: float, wake_s: float) -> None:
        """Also until one of `opened` may go on: one stream of all looks at the clock, and wakes the next as it goes."""
        paces = [active.pace for active in opened if active.pace is not None]
        # What each said when it was not to go on: asked again, at another rate, it might be due, and nobody would look.
        dues_s = [pace.seen_s for pace in paces if pace.seen_s > now_s]
        until_s = min(dues_s, default=wake_s)
        self._timed = bool(dues_s)
        if not dues_s and self._relying:
            self._changed.notify()  # it was another's to be woken: waiters are woken in turn, so it will be
        self._changed.wait(None if until_s == inf else max(0.0, min(until_s, wake_s) - now_s))
        self._timed = self._timed and not dues_s

    def _step(self, stream: int, active: ActiveDelivery, now_s: float) -> _Step | None:
        """What there is to do for `active` on `stream`, which is taken; None: nothing for now. Under the lock."""
        state = active.state
        if not state.is_open(stream):
            return None
        ready = active.is_ready(stream)
        if active.is_short(stream, self.streams) and state.verdict(0, now_s) is Verdict.SEND:
            active.preparing = True
            return _Step(_Do.PREPARE, active)
        outgoing = active.peek(stream)
        verdict = state.verdict(outgoing.wire_bytes if outgoing else None if ready else 0, now_s)
        if verdict is Verdict.CLOSE:
            state.begin(stream, 0)
            self._busy_until[stream] = max(now_s, state.deadline_s)
            return _Step(_Do.LAST_WORD, active)
        if outgoing is None or verdict is not Verdict.SEND:
            return None
        if active.pace is not None and active.pace.due_s(now_s) > now_s:
            return None
        turn = self._take_turn(stream, active, now_s)
        state.claim(turn.wire_bytes)
        if active.far:
            self._changed.notify_all()  # its thread may make more ready
        return _Step(_Do.SEND, active, turn)

    def _take_turn(self, stream: int, active: ActiveDelivery, now_s: float) -> Turn:
        at = active.pace
        if at is None or not at.bound:
            turn = active.take_turn(stream, self._turn_bytes(stream, active))
        elif self.once:  # a response's length is known, so its frames are: they are paced as they are sent
            return active.take_turn(stream, active.most_bytes(at.step_bytes))
        else:
            turn = active.take_turn(stream, active.most_bytes(at.step_bytes), at.step_bytes)
        if at is not None and not self.once:
            at.take(turn.data_bytes, now_s)
        return turn

    def _turn_bytes(self, stream: int, active: ActiveDelivery) -> float:
        """What may go out in one go: a frame, or, with no other delivery in sight, what takes a moment.

        In the beginning a frame too, so that streams share the first layer evenly.
        """
        beginning = active.state.sent_bytes < active.turn_bytes * self.streams
        if beginning or len(self._active) > 1:
            return 0
        return active.most_bytes(int(self._bytes_s.get(stream, 0.0) * TURN_S))

    def _send_last_word(self, stream: int, sock: socket.socket, active: ActiveDelivery) -> None:
        """Raises OSError."""
        send_all(sock, active.last_word())

    def _send(self, stream: int, sock: socket.socket, active: ActiveDelivery, turn: Turn) -> bool:
        """A turn, unless it cannot be had, or is not wanted any more when it is at hand: False. Raises OSError."""
        held = self._hold(stream, active, turn)
        if held is not None:
            self._send_held(stream, sock, active, held)
        return held is not None

    def _hold(self, stream: int, active: ActiveDelivery, turn: Turn) -> HeldTurn | None:
        """A turn that is at hand and begun; None where `_send` sends nothing."""
        try:
            held = HeldTurn(turn)
        except ObjectCacheError as error:
            with self._changed:
                active.state.unclaim(turn.wire_bytes)
            supplying.fail(active, self._changed, error)
            return None
        if not self._begin(stream, active, turn.wire_bytes):
            held.close()
            return None
        return held

    def _send_held(self, stream: int, sock: socket.socket, active: ActiveDelivery, held: HeldTurn) -> None:
        with held:
            start_s = time.monotonic()
            held.send(sock, paced_steps(active, self._changed) if self.once and active.pace is not None else at_once)
            ended_s = time.monotonic()
            self._bytes_s[stream] = held.wire_bytes / max(ended_s - start_s, TURN_S / 100)
        if active.times is not None:
            active.times.note(stream, held.turn, start_s, ended_s)

    def _begin(self, stream: int, active: ActiveDelivery, wire_bytes: int) -> bool:
        with self._changed:
            state = active.state
            state.unclaim(wire_bytes)
            if self._closed or state.verdict(wire_bytes, time.monotonic()) is not Verdict.SEND:
                self._changed.notify_all()
                return False
            state.begin(stream, wire_bytes)
            self._busy_until[stream] = state.deadline_s
            return True

    def _done(self, stream: int, active: ActiveDelivery, *, last: bool) -> None:
        with self._changed:
            over = self._settle(stream, active, last=last)
        _tell(over)

    def _settle(self, stream: int, active: ActiveDelivery, *, last: bool) -> list[ActiveDelivery]:
        """A turn has been sent, or the last word. Deliveries that are over now, to be told without the lock."""
        self._busy_until.pop(stream, None)
        if last:
            active.state.close(stream)
        else:
            active.state.finish(stream)
        if active.state.stopping:
            self._changed.notify_all()  # somebody may wait for it to be quiet
        return self._retire()

    def _lose(self, stream: int, sock: socket.socket, error: ObjectCacheError | None) -> None:
        with self._changed:
            self._busy_until.pop(stream, None)
            self._closed = True  # a receiver that misses one stream misses part of every layer
            for active in self._active:
                if error is not None:
                    active.state.fail(error)
                for index in range(len(self._sockets)):
                    if index == stream or self._sockets[index] is None:
                        active.state.lose(index)
            self._sockets[stream] = None
            for other in self._sockets:
                if other is not None:
                    _cut(other)
            over = self._retire()
            last = all(other is None for other in self._sockets)
            self._changed.notify_all()
        sock.close()
        _tell(over)
        if last:
            self._on_lost()

    def _retire(self) -> list[ActiveDelivery]:
        over = [active for active in self._active if active.state.fenced]
        for active in over:
            self._active.remove(active)
            active.drop()
            self._served = True
        if over:
            self._any_paced = any(active.pace is not None for active in self._active)
        return over


def _tell(over: list[ActiveDelivery]) -> None:
    for active in over:
        active.on_over(active.state.outcome)


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):  # it may be gone already
        sock.shutdown(socket.SHUT_RDWR)
