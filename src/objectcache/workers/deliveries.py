"""Deliveries of a data worker: plans that sessions send, and responses that are deliveries."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from objectcache.announcing import Announcements
from objectcache.delivery import Delivery
from objectcache.errors import DeliveryCancelledError, DeliveryError, ObjectCacheError
from objectcache.plan import Plan, PlanPart
from objectcache.recent import Recent
from objectcache.transports.active import ActiveDelivery
from objectcache.transports.dealing import Dealing, Portion
from objectcache.transports.sender import SenderSession
from objectcache.transports.sent_times import SentTimes
from objectcache.transports.shared_memory import PlacingDelivery
from objectcache.transports.shared_memory.placements import placed_bytes, placements_of
from objectcache.transports.sockets import send_all
from objectcache.transports.source import Outgoing, spans_of, tapering_of, turn_bytes
from objectcache.workers.answering import Answering, Order, WorkerStores
from objectcache.workers.board import Board, go_first
from objectcache.workers.channel import Message, told_error
from objectcache.workers.fetched import Fetched
from objectcache.workers.open_objects import HeldObjects, OpenObjects
from objectcache.workers.sessions import WorkerSessions

KNOWN_RUNS = 8192
"""Over all parts of plans that are kept decoded, 1 KB each."""


class DeliveryOrders:
    """Deliveries begin in the order in which they are ordered."""

    def __init__(self, answering: Answering, stores: WorkerStores, sessions: WorkerSessions) -> None:
        self._answering = answering
        self._stores = stores
        self._sessions = sessions
        self._objects = OpenObjects()
        self._known: Recent[int, PlanPart] = Recent(KNOWN_RUNS)
        self._fetched = Fetched()
        self._board: Board | None = None
        self.orders: Mapping[str, Order] = {
            "deliver": self._deliver,
            "respond": self._respond,
            "conclude": self._conclude,
            "fail": self._fail,
            "cancel": self._cancel,
            "board": self._take_board,
            "pace": self._pace,
        }

    def reap(self, now_s: float) -> None:
        """Close what nobody has read for a while."""
        self._objects.close_idle(now_s)

    def _take_board(self, message: Message, fds: list[int]) -> None:
        """Deliveries that name a slot go by what is written there."""
        with open(fds[0], "rb", closefd=True) as board_file:
            self._board = Board(board_file.fileno())
        go_first()

    def _pace(self, message: Message, fds: list[int]) -> None:
        """A delivery that is under way has got a slot."""
        session, board = self._sessions.get(message["session"]), self._board
        if session is not None and board is not None:
            at = message["slot"], message["carrier"], message["fraction"]
            session.set_pace(message["delivery"], message["epoch"], partial(board.pace, *at))

    def _deliver(self, message: Message, fds: list[int]) -> Callable[[], None] | None:
        session = self._sessions.get(message["session"])
        if session is None:
            self._answering.answer(message, DeliveryError("the data session has ended"))
            return None
        return session.begin(self._active(message, session))

    def _conclude(self, message: Message, fds: list[int]) -> None:
        """The last word of a delivery that another worker has sent, on the streams that are served here."""
        session = self._sessions.get(message["session"])
        if session is None:
            self._answering.answer(message, DeliveryError("the data session has ended"))
            return
        state = self._state(message, session, 0)
        error = told_error(message)
        if isinstance(error, DeliveryCancelledError):
            state.cancel()
        elif error is not None:
            state.fail(error)
        over = partial(self._answering.answer, message)
        session.add(ActiveDelivery(message["delivery"], message["epoch"], state, iter(()), over))

    def _fail(self, message: Message, fds: list[int]) -> None:
        """Another worker could not send its portion."""
        session, error = self._sessions.get(message["session"]), told_error(message)
        if session is not None and error is not None:
            session.fail(message["delivery"], message["epoch"], error)

    def _respond(self, message: Message, fds: list[int]) -> None:
        """A delivery as the body of an HTTP response, whose head comes with the order. The socket is shared with the
        control process's event loop and stays non-blocking."""
        sock = socket.socket(fileno=fds[0])
        sock.settimeout(message["deadline_s"] + 5.0)
        session = SenderSession(1, once=True)
        self._sessions.put(message["session"], session)

        def respond() -> None:
            try:
                send_all(sock, message["head"], more=True)
            except OSError:
                sock.close()
                self._sessions.pop(message["session"])
                self._answering.answer(message, DeliveryError("the client went away"))
                return
            session.add(self._active(message, session))
            session.attach(0, sock)

        self._answering.carry_out("response", message, respond)

    def _active(self, message: Message, session: SenderSession) -> ActiveDelivery:
        plan = Plan.from_wire(message["plan"], self._known)
        delivery, epoch = message["delivery"], message["epoch"]
        state = self._state(message, session, message["credit_bytes"])
        portion = Portion(*message["portion"]) if "portion" in message else Portion(session.streams)
        slot, board = message.get("slot"), self._board
        pace = board.pace(slot, portion.carrier, portion.fraction) if slot is not None and board is not None else None
        held: HeldObjects | None = None
        spans: Iterator[list[Outgoing]] = iter(())
        far = False
        times = SentTimes() if message.get("timed") else None
        turn = turn_bytes(plan, portion)
        try:
            store = self._stores.get(message["store"])
            far = store.far
            held = self._objects.hold(store, plan.segment_bytes)
            ahead = Announcements(plan, held.readers) if far else None
            dealing = Dealing(portion) if portion.carriers > 1 else None
            if session.places:
                most = placed_bytes(plan, portion)
                spans = placements_of(plan, held.readers, delivery, epoch, ahead, dealing, most)
            else:
                spans = spans_of(plan, held.readers, delivery, epoch, ahead, dealing)
        except ObjectCacheError as error:
            state.fail(error)

        def over(error: ObjectCacheError | None) -> None:
            if held is not None:
                held.release()
            if session.once:
                self._sessions.pop(message["session"])
            fetched_bytes = self._fetched.since_last(store) if error is None else 0
            sent_s = [] if times is None else times.by_layer()
            how: Message = {"sent_bytes": state.sent_bytes, "fetched_bytes": fetched_bytes, "sent_s": sent_s}
            self._answering.answer(message, error, **how)

        active: ActiveDelivery
        if session.places:
            where = {"geometry": plan.geometry, "offset": message["offset"]}
            active = PlacingDelivery(delivery, epoch, state, spans, over, **where, far=far, pace=pace)
        else:
            taper = tapering_of(plan, portion)
            active = ActiveDelivery(
                delivery, epoch, state, spans, over, far=far, turn_bytes=turn, tapering=taper, pace=pace
            )
        active.times = times
        return active

    def _state(self, message: Message, session: SenderSession, credit_bytes: int) -> Delivery:
        until_s = time.monotonic() + message["deadline_s"]
        return Delivery(streams=session.streams, credit_bytes=credit_bytes, deadline_s=until_s)

    def _cancel(self, message: Message, fds: list[int]) -> None:
        session = self._sessions.get(message["session"])

        def cancel() -> None:
            quiet = session is None or session.cancel(message["delivery"], message["epoch"], message["timeout_s"])
            self._answering.answer(message, quiet=quiet)

        self._answering.carry_out("cancel", message, cancel)
