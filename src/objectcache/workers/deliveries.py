"""Deliveries of a data worker: plans that sessions send, and responses that are deliveries."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from objectcache.announcing import Announcements
from objectcache.delivery import Delivery
from objectcache.errors import DeliveryError, ObjectCacheError
from objectcache.plan import Plan, PlanPart
from objectcache.recent import Recent
from objectcache.transports.active import ActiveDelivery
from objectcache.transports.sender import SenderSession
from objectcache.transports.shared_memory import PlacingDelivery
from objectcache.transports.shared_memory.placements import placements_of
from objectcache.transports.sockets import send_all
from objectcache.transports.source import Outgoing, spans_of, turn_bytes
from objectcache.workers.answering import Answering, Order, WorkerStores
from objectcache.workers.board import Board, go_first
from objectcache.workers.channel import Message
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
            session.set_pace(message["delivery"], message["epoch"], partial(board.pace, message["slot"]))

    def _deliver(self, message: Message, fds: list[int]) -> Callable[[], None] | None:
        session = self._sessions.get(message["session"])
        if session is None:
            self._answering.answer(message, DeliveryError("the data session has ended"))
            return None
        return session.begin(self._active(message, session))

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
        state = Delivery(
            streams=session.streams,
            credit_bytes=message["credit_bytes"],
            deadline_s=time.monotonic() + message["deadline_s"],
        )
        slot = message.get("slot")
        pace = self._board.pace(slot) if slot is not None and self._board is not None else None
        held: HeldObjects | None = None
        spans: Iterator[list[Outgoing]] = iter(())
        far = False
        try:
            store = self._stores.get(message["store"])
            far = store.far
            held = self._objects.hold(store, plan.segment_bytes)
            ahead = Announcements(plan, held.readers) if far else None
            spans = (placements_of if session.places else spans_of)(plan, held.readers, delivery, epoch, ahead)
        except ObjectCacheError as error:
            state.fail(error)

        def over(error: ObjectCacheError | None) -> None:
            if held is not None:
                held.release()
            if session.once:
                self._sessions.pop(message["session"])
            fetched_bytes = self._fetched.since_last(store) if error is None else 0
            self._answering.answer(message, error, sent_bytes=state.sent_bytes, fetched_bytes=fetched_bytes)

        if session.places:
            where = {"geometry": plan.geometry, "offset": message["offset"]}
            return PlacingDelivery(delivery, epoch, state, spans, over, **where, far=far, pace=pace)
        turn = turn_bytes(plan, session.streams)
        return ActiveDelivery(delivery, epoch, state, spans, over, far=far, turn_bytes=turn, pace=pace)

    def _cancel(self, message: Message, fds: list[int]) -> None:
        session = self._sessions.get(message["session"])

        def cancel() -> None:
            quiet = session is None or session.cancel(message["delivery"], message["epoch"], message["timeout_s"])
            self._answering.answer(message, quiet=quiet)

        self._answering.carry_out("cancel", message, cancel)
