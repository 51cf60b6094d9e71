"""The KV sub-resources that read: match, retrieve, and what belongs to them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import NamedTuple

from aiohttp import web

from objectcache.cache.base import Match, PartId
from objectcache.cache.core import CacheCore
from objectcache.config import GatewayConfig
from objectcache.descriptor import (
    Descriptor,
    DescriptorPart,
    HeldChunks,
    Target,
    TargetKind,
    decode_descriptor,
)
from objectcache.errors import (
    DataConnectionsRefusedError,
    DeliveryCancelledError,
    DeliveryTimeoutError,
    IntegrityError,
    KeyNotFoundError,
    NamespaceMismatchError,
    RequestError,
    SessionNotFoundError,
)
from objectcache.frames import FRAME_HEADER_BYTES
from objectcache.gateway.bandwidth import Bandwidth
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.carriers import Carriers
from objectcache.gateway.damage import DamageRoute
from objectcache.gateway.draining import Drain
from objectcache.gateway.explain import ExplainRoute
from objectcache.gateway.freshness import Freshness
from objectcache.gateway.handoff import (
    HandedOffResponse,
    response_head,
    response_socket,
)
from objectcache.gateway.metrics import GatewayMetrics
from objectcache.gateway.nixl import NixlRoute
from objectcache.gateway.running import Running, links_of
from objectcache.gateway.sent_times import SentTimesRoute
from objectcache.gateway.sessions import Session, SessionTable
from objectcache.messages import (
    ANSWER_HEADER,
    CancelAnswer,
    CancelRequest,
    MatchAndRetrieveAnswer,
    MatchAndRetrieveRequest,
    MatchAnswer,
    MatchRequest,
    ReleaseRequest,
    RetrieveAnswer,
    SessionAnswer,
    SessionRequest,
)
from objectcache.messages.control import SESSION_HEADER
from objectcache.plan import Plan
from objectcache.transports.nixl import is_installed
from objectcache.transports.source import wire_bytes
from objectcache.workers.channel import Message
from objectcache.workers.pool import WorkerOrderError, WorkerPool

log = logging.getLogger(__name__)

UPLOAD_TIMEOUT_S = 60.0
GONE_POLL_S = 0.25
STORE_HEADER = "x-kv-store"
MSGPACK = "application/msgpack"


class _Planned(NamedTuple):
    descriptor: Descriptor
    plan: Plan
    expected_bytes_s: float


_Tell = Callable[[RetrieveAnswer], RetrieveAnswer | MatchAndRetrieveAnswer]


class KVRoutes:
    """Handlers by operation."""

    def __init__(
        self,
        buckets: BucketTable,
        pool: WorkerPool,
        sessions: SessionTable,
        metrics: GatewayMetrics,
        drain: Drain,
        bandwidth: Bandwidth,
        data_endpoint: Callable[[web.Request], tuple[str, int, str, int, str]],
        config: GatewayConfig,
    ) -> None:
        """`data_endpoint(request)` gives what a SessionAnswer says of this very gateway."""
        self._config = config
        # Networks of NIXL's have no TLS either.
        self._nixl = NixlRoute(sessions, offered=config.nixl and is_installed() and config.serves_data_connections)
        self._buckets = buckets
        self._pool = pool
        self._sessions = sessions
        self._metrics = metrics
        self._drain = drain
        self._bandwidth = bandwidth
        self._data_endpoint = data_endpoint
        self._damage = DamageRoute(buckets, pool)
        self._freshness = Freshness()
        self._sent_times = SentTimesRoute(buckets)
        self.handlers: dict[str, Handler] = {
            "kv-match": self.match,
            "kv-release": self.release,
            "kv-session": self.session,
            "kv-nixl": self._nixl.register,
            "kv-retrieve": self.retrieve,
            "kv-match-and-retrieve": self.match_and_retrieve,
            "kv-delivery": self.cancel,
            "kv-damage": self._damage.report,
            "kv-explain": ExplainRoute(buckets).explain,
            "kv-sent": self._sent_times.show,
        }

    async def match(self, call: Call) -> web.StreamResponse:
        self._drain.check()
        core = await self._buckets.get(call.bucket)
        asked = MatchRequest.decode(await call.body())
        await self._freshness.wait(core.following)
        found = self._matched(core, asked)
        return _answer(_match_answer(found, _known(self._expected_bytes_s(call))).encode())

    def _matched(self, core: CacheCore, asked: MatchRequest) -> Match | None:
        """What matches, under a lease; None: nothing does."""
        parts = [PartId(group, shard) for group, shard in asked.parts] or None
        try:
            found = core.match(asked.namespace, asked.keys, parts)
        except NamespaceMismatchError:
            return None  # nothing was ever stored under it, which is an ordinary miss
        _afterwards(self._count_match, asked, found)
        return found if found.tokens else None

    def _count_match(self, asked: MatchRequest, found: Match) -> None:
        self._metrics.asked_tokens.inc(len(asked.keys) * found.namespace.layout.key_tokens)
        self._metrics.matched_tokens.inc(found.tokens)

    async def release(self, call: Call) -> web.StreamResponse:
        core = await self._buckets.get(call.bucket)
        core.release(ReleaseRequest.decode(await call.body()).lease)
        return web.Response(status=204)

    async def session(self, call: Call) -> web.StreamResponse:
        self._drain.check()
        core = await self._buckets.get(call.bucket)
        asked = SessionRequest.decode(await call.body())
        endpoints = self._data_endpoint(call.request)
        plain, shm_socket = self._config.serves_data_connections, endpoints[-1]
        if not plain and not (shm_socket and is_of_this_host(call.request)):
            raise DataConnectionsRefusedError(
                "data connections have no TLS and this gateway's network is not said to be trusted: take KV from HTTP "
                "responses (target 'http'), or set plain_data = true in the gateway's configuration"
            )
        await self._pool.living()
        # Each range that is fetched from afar is to be fetched once.
        workers = self._pool.idlest(1 if core.store.far else self._config.workers_per_session)
        opened = self._sessions.open(workers, call.bucket, call.caller.access_key, asked.streams, plain=plain)
        return _answer(SessionAnswer(opened.id, *endpoints, self._nixl.name(opened)).encode())

    # -- deliveries -------------------------------------------------------------------------------

    async def retrieve(self, call: Call) -> web.StreamResponse:
        self._drain.check()
        core = await self._buckets.get(call.bucket)
        descriptor = decode_descriptor(await call.body())
        by_session = descriptor.target.kind is not TargetKind.HTTP
        session = self._session_of(call, descriptor.target) if by_session else None
        expected_bytes_s = self._expected_bytes_s(call)
        plan = core.plan(descriptor, _known(expected_bytes_s) or None)
        if session is not None:
            return _answer(self._deliver(call, core, session, descriptor, plan, expected_bytes_s).encode())
        return await self._respond(call, core, descriptor, plan)

    async def match_and_retrieve(self, call: Call) -> web.StreamResponse:
        self._drain.check()
        core = await self._buckets.get(call.bucket)
        asked = MatchAndRetrieveRequest.decode(await call.body())
        await self._freshness.wait(core.following)
        if asked.target.kind is not TargetKind.HTTP:
            return _answer(self._match_and_deliver(call, core, asked).encode())
        _check_there(call)
        match, planned, known = self._planned_match(call, core, asked)
        if planned is None:
            return _answer(MatchAndRetrieveAnswer(match).encode())

        def tell(accepted: RetrieveAnswer) -> MatchAndRetrieveAnswer:
            return MatchAndRetrieveAnswer(match, accepted, *known)

        try:
            return await self._respond(call, core, planned.descriptor, planned.plan, tell)
        except BaseException:
            core.release(match.lease)  # nobody has been told of it
            raise

    def match_and_retrieve_in_session(self, call: Call, body: bytes) -> bytes | Awaitable[bytes]:
        """The same for an ask over a control stream: at once, unless something must be waited for."""
        self._drain.check()
        asked = MatchAndRetrieveRequest.decode(body)
        if asked.target.kind is TargetKind.HTTP:
            raise RequestError("there is no response on a control stream: ask for one by HTTP")
        if asked.target.session.hex() != call.header(SESSION_HEADER).lower():
            raise SessionNotFoundError("the control stream is another session's")
        core = self._buckets.at_hand(call.bucket)
        if core is not None and core.following.use():
            return self._match_and_deliver(call, core, asked).encode()
        return self._match_and_deliver_later(call, asked)

    async def _match_and_deliver_later(self, call: Call, asked: MatchAndRetrieveRequest) -> bytes:
        core = await self._buckets.get(call.bucket)
        await self._freshness.wait(core.following)
        return self._match_and_deliver(call, core, asked).encode()

    def _match_and_deliver(self, call: Call, core: CacheCore, asked: MatchAndRetrieveRequest) -> MatchAndRetrieveAnswer:
        """In a session."""
        session = self._session_of(call, asked.target)
        _check_there(call)
        match, planned, known = self._planned_match(call, core, asked)
        if planned is None:
            return MatchAndRetrieveAnswer(match)
        try:
            accepted = self._deliver(call, core, session, *planned)
        except BaseException:
            core.release(match.lease)  # nobody has been told of it
            raise
        return MatchAndRetrieveAnswer(match, accepted, *known)

    def _planned_match(
        self, call: Call, core: CacheCore, asked: MatchAndRetrieveRequest
    ) -> tuple[MatchAnswer, _Planned | None, tuple[bool, bool]]:
        """What matches, how it is to be delivered (None: nothing is), and whether what is held, and a bound, count."""
        found = self._matched(core, asked.match)
        expected_bytes_s = self._expected_bytes_s(call)
        match, known = _match_answer(found, _known(expected_bytes_s)), (bool(asked.held), bool(asked.most_tokens))
        if found is None:
            return match, None, known
        try:
            delivered = found.bounded(asked.most_tokens or None)
            descriptor = asked.descriptor(_described(delivered, asked.held), match.lease)
            if all(part.all_held for part in descriptor.parts):
                return match, None, known
            plan = core.plan(descriptor, _known(expected_bytes_s) or None)
        except BaseException:
            core.release(match.lease)
            raise
        fits = plan.geometry.total_bytes <= asked.room_bytes
        return match, _Planned(descriptor, plan, expected_bytes_s) if fits else None, known

    def _session_of(self, call: Call, target: Target) -> Session:
        return self._sessions.get(target.session, call.bucket, call.caller.access_key)

    def _deliver(
        self,
        call: Call,
        core: CacheCore,
        session: Session,
        descriptor: Descriptor,
        plan: Plan,
        expected_bytes_s: float,
    ) -> RetrieveAnswer:
        """Have it sent, by the session's carriers, at first at the rate that is expected."""
        session.check(descriptor.target, plan.geometry.total_bytes)
        spread = self._spread(session.carriers, descriptor, plan)
        running = self._bandwidth.admit(session.carriers, spread, call, descriptor, plan, expected_bytes_s)
        ended = session.carriers.deliver(self._order(core, running), spread)
        self._watch(ended, core, running, call.bucket)
        return self._accepted(running)

    def _spread(self, carriers: Carriers, descriptor: Descriptor, plan: Plan) -> int:
        """How many of them send it: one, where telling all takes longer than sending, or where what may be sent is
        counted byte by byte."""
        if len(carriers) == 1 or descriptor.credit_bytes or plan.payload_bytes < self._config.spread_from_bytes:
            return 1
        return len(carriers)

    async def _respond(
        self, call: Call, core: CacheCore, descriptor: Descriptor, plan: Plan, tell: _Tell = lambda accepted: accepted
    ) -> web.StreamResponse:
        """A delivery as the body of the response; what `tell` makes of its acceptance is told in the head."""
        request = call.request
        worker, session_id = await self._pool.living(), secrets.token_bytes(16)
        async with response_socket(request) as fd:
            running = self._bandwidth.admit(Carriers([worker], session_id), 1, call, descriptor, plan)
            head = self._head(request, running, tell)
            ended = worker.order("respond", fds=[fd], head=head, **self._order(core, running))
            self._watch(ended, core, running, call.bucket)
            while not (await asyncio.wait({ended}, timeout=GONE_POLL_S))[0]:
                if request.transport is None or request.transport.is_closing():
                    # Nobody reads any more. The worker, waiting for a window to open, may not be told.
                    worker.tell("end_session", session=session_id)
            try:
                await ended
            except WorkerOrderError:
                return HandedOffResponse(request, whole=False)
        return HandedOffResponse(request, whole=True)

    def _head(self, request: web.Request, running: Running, tell: _Tell) -> bytes:
        plan, told = running.plan, tell(self._accepted(running))
        return response_head(
            request,
            wire_bytes(plan) + FRAME_HEADER_BYTES,
            {
                "Content-Type": "application/octet-stream",
                "x-kv-layers-per-unit": str(plan.layers_per_unit),
                "x-kv-unit-reason": plan.reason,
                ANSWER_HEADER: told.to_header(),
            },
        )

    def _expected_bytes_s(self, call: Call) -> float:
        """inf: no link on the way has a cap."""
        return self._bandwidth.expected_bytes_s(links_of(call))

    def _accepted(self, running: Running) -> RetrieveAnswer:
        """What is said of a delivery that begins."""
        plan = running.plan
        rate_bytes_s = _known(running.expected_bytes_s)
        return RetrieveAnswer(plan.layers_per_unit, plan.payload_bytes, plan.versions, rate_bytes_s, plan.reason)

    def _order(self, core: CacheCore, running: Running) -> Message:
        descriptor = running.descriptor
        return {
            "store": core.store.url,
            "session": running.carriers.session,
            "delivery": descriptor.delivery,
            "epoch": descriptor.epoch,
            "credit_bytes": 0 if descriptor.target.kind is TargetKind.HTTP else descriptor.credit_bytes,
            "offset": descriptor.target.offset,
            "deadline_s": descriptor.deadline_s,
            "plan": running.plan.to_wire(),
            "slot": running.slot,
            "timed": bool(descriptor.trace),
        }

    def _watch(self, ended: asyncio.Future[Message], core: CacheCore, running: Running, bucket: str) -> None:
        """Count a delivery that is ordered, and how it ends; forget segments that turned out to be gone or damaged."""
        target = running.descriptor.target.kind
        _afterwards(self._count_begun, core, running)

        def over(future: asyncio.Future[Message]) -> None:
            self._metrics.deliveries_running.dec()
            problem = None if future.cancelled() else future.exception()
            self._bandwidth.ended(running, 0 if future.cancelled() or problem else future.result()["sent_bytes"])
            if future.cancelled():
                return
            if problem is None:
                self._metrics.delivered_bytes.labels(target).inc(future.result()["sent_bytes"])
                core.reads.read(future.result()["fetched_bytes"])
                self._sent_times.keep(bucket, running, future.result()["sent_s"])
            elif isinstance(problem, WorkerOrderError) and problem.segment:
                if core.store.far and isinstance(problem.error, IntegrityError):
                    # It may be a copy that is damaged: the segment itself is asked before it is forgotten.
                    self._damage.check(core, [problem.segment])
                else:
                    asyncio.get_running_loop().run_in_executor(None, core.forget, problem.segment)
            self._metrics.deliveries.labels(target, _outcome(problem)).inc()

        ended.add_done_callback(over)

    def _count_begun(self, core: CacheCore, running: Running) -> None:
        plan, descriptor = running.plan, running.descriptor
        self._metrics.deliveries_running.inc()
        self._metrics.units.labels(plan.reason).inc()
        core.reads.planned(plan)
        log.debug(
            "delivery %d (trace %r): %d bytes in units of %d layers: %s",
            *(descriptor.delivery, descriptor.trace, plan.payload_bytes, plan.layers_per_unit, plan.reason),
        )

    async def cancel(self, call: Call) -> web.StreamResponse:
        asked = CancelRequest.decode(await call.body())
        session = self._sessions.get(asked.session, call.bucket, call.caller.access_key)
        quiet = await session.carriers.cancel(asked.delivery, asked.epoch, asked.timeout_s)
        return _answer(CancelAnswer(quiet).encode())


def _check_there(call: Call) -> None:
    transport = call.request.transport
    if transport is None or transport.is_closing():
        raise RequestError("the client went away")  # and has cancelled what it knew of


def is_of_this_host(request: web.Request) -> bool:
    """Whether the client's connection has the same address at both ends."""
    transport = request.transport
    ends = [transport.get_extra_info(name) for name in ("sockname", "peername")] if transport is not None else []
    return all(ends) and ends[0][0] == ends[1][0]


def _outcome(problem: BaseException | None) -> str:
    if problem is None:
        return "sent"
    error = problem.error if isinstance(problem, WorkerOrderError) else problem
    if isinstance(error, DeliveryCancelledError):
        return "cancelled"
    if isinstance(error, KeyNotFoundError):
        return "absent"
    return "late" if isinstance(error, DeliveryTimeoutError) else "failed"


def _afterwards(call: Callable[..., object], *arguments: object) -> None:
    """Call it when the workers have their orders and the client its answer: counting is for nobody who waits."""
    asyncio.get_running_loop().call_soon(call, *arguments)


def _described(found: Match, held: Sequence[HeldChunks]) -> tuple[DescriptorPart, ...]:
    """What matched as it is asked for by a client that has `held`."""
    layout = found.namespace.layout
    by_part = {(part.group, part.shard): part for part in held}
    return tuple(
        DescriptorPart.of(part.part, part.first, part.stop, part.leaf, layout).holding(by_part.get(part.part))
        for part in found.parts
    )


def _match_answer(found: Match | None, rate_bytes_s: float | None) -> MatchAnswer:
    if found is None or found.lease is None:
        return MatchAnswer(0)
    lease = found.lease
    matched = tuple((part.part.group, part.part.shard, part.first, part.stop) for part in found.parts)
    return MatchAnswer(found.tokens, matched, lease.id, lease.ttl_s, rate_bytes_s, lease.layers_per_unit)


def _known(bytes_s: float) -> float | None:
    """A rate on the wire: none where nothing bounds it."""
    return bytes_s if bytes_s < inf else None


def _answer(body: bytes) -> web.Response:
    return web.Response(body=body, content_type=MSGPACK)
