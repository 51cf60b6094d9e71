"""The same cache through a gateway."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from objectcache.buffers import BufferPool
from objectcache.cache.base import (
    ForeignUpload,
    KVCache,
    Lease,
    Match,
    PartId,
    RetrieveOptions,
    SegmentUpload,
    UploadTicket,
    all_parts,
    matched_part,
    select_parts,
)
from objectcache.cache.destination import Destination
from objectcache.cache.landing import Landing
from objectcache.cache.retrieval import Retrieval
from objectcache.cache.tiering import TieredDelivery
from objectcache.client.corrections import WindowCorrections
from objectcache.client.fencing import Asked, Fencer
from objectcache.client.http import GatewayHttp
from objectcache.client.one_trip import OneTrip, ResponseTrip, SessionTrip, room_bytes
from objectcache.client.options import ClientOptions
from objectcache.client.response import ResponseReception
from objectcache.client.session import DataSession
from objectcache.client.storing import GatewayStoring
from objectcache.descriptor import Descriptor, Target, TargetKind
from objectcache.errors import (
    BufferPoolExhaustedError,
    DataConnectionsRefusedError,
    DeliveryError,
    GatewayUnavailableError,
    HeldVersionError,
    IntegrityError,
    MethodNotAllowedError,
    ObjectCacheError,
    RequestError,
    SessionNotFoundError,
)
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import delivery_geometry
from objectcache.messages import (
    MatchAndRetrieveAnswer,
    MatchAndRetrieveRequest,
    MatchAnswer,
    MatchRequest,
    ReleaseRequest,
    RetrieveAnswer,
)
from objectcache.transports.receiver import Expected, ExpectedPart
from objectcache.transports.verification import Level


class GatewayCache(KVCache):
    """A bucket of a gateway. The destination of every delivery comes from one pool of registered memory."""

    def __init__(
        self, host: str, port: int, bucket: str, options: ClientOptions | None = None, *, tls: bool = False
    ) -> None:
        self.options = options or ClientOptions()
        self._by_session = self.options.target != "http"
        self._in_one_trip = True  # until a gateway does not know how
        self.bucket = bucket
        # What NIXL registers is no other process's to map.
        shared = self.options.target != "nixl"
        self.pool = BufferPool(self.options.buffer_bytes, prefault=self.options.prefault, shared=shared)
        self.tiering = self.options.tier.open()
        self._http = GatewayHttp(self.options.endpoint(host, port, tls=tls), timeout_s=self.options.timeout_s)
        where = {"host": host, "port": port, "tls": tls, "options": self.options.to_wire()}
        self._storing = GatewayStoring(self._http, bucket, where)
        self._session: DataSession | None = None
        self._session_lock = threading.Lock()
        self._fencer = Fencer(bucket, self.options.fence_s)
        self._deliveries = itertools.count(secrets.randbits(48))
        self._corrections = WindowCorrections(self._path("kv-windows"))

    # -- matching ---------------------------------------------------------------------------------

    def match(self, namespace: Namespace, chain: KeyChain, *, parts: Sequence[PartId] | None = None) -> Match:
        if parts is not None and not parts:
            return Match(namespace, 0)  # a request without parts asks for all of them
        request = MatchRequest(namespace.digest, chain, tuple((p.group, p.shard) for p in parts or ()))
        answer = MatchAnswer.decode(self._request("POST", "kv-match", request.encode()))
        return _match(namespace, chain, answer)

    def release(self, match: Match) -> None:
        if match.lease is not None:
            self._request("POST", "kv-release", ReleaseRequest(match.lease.id).encode())

    # -- both in one ------------------------------------------------------------------------------

    def match_and_retrieve(
        self,
        namespace: Namespace,
        chain: KeyChain,
        *,
        parts: Sequence[PartId] | None = None,
        options: RetrieveOptions | None = None,
    ) -> tuple[Match, Retrieval | None]:
        wanted = options or RetrieveOptions()
        room = room_bytes(namespace.layout, len(chain), parts)
        if room and self._in_one_trip and not self._holds(namespace, chain, parts):
            with suppress(BufferPoolExhaustedError, MethodNotAllowedError):
                return self._match_and_retrieve(namespace, chain, parts, wanted, room)
        return super().match_and_retrieve(namespace, chain, parts=parts, options=options)

    def _holds(self, namespace: Namespace, chain: KeyChain, parts: Sequence[PartId] | None) -> bool:
        """Whether not all is to be asked for; what of it, is known only with the match."""
        if self.tiering is None:
            return False
        begins = [
            matched_part(namespace, chain, part, 0, 1) for part in (all_parts(namespace) if parts is None else parts)
        ]
        return self.tiering.holds(namespace, begins)

    def _match_and_retrieve(
        self,
        namespace: Namespace,
        chain: KeyChain,
        parts: Sequence[PartId] | None,
        options: RetrieveOptions,
        room: int,
    ) -> tuple[Match, Retrieval | None]:
        """Raises BufferPoolExhaustedError when there is no room for all of `chain`, MethodNotAllowedError from a
        gateway that does not know this request."""
        asked_s = time.perf_counter()
        asked = MatchRequest(namespace.digest, chain, tuple((p.group, p.shard) for p in parts or ()))
        destination = Destination(self.pool, self.pool.allocate(room))
        match = Match(namespace, 0)
        try:
            trip, answer = self._ask(asked, options, destination, room, asked_s + options.deadline_s)
            match = _match(namespace, chain, answer.match)
            if answer.accepted is not None:
                return match, self._arriving(trip, match, answer.accepted, options, asked_s)
            trip.withdraw()
            destination.close(complete=False)
            return match, self.retrieve(match, options=options) if match.tokens else None
        except BaseException as error:
            self._in_one_trip = self._in_one_trip and not isinstance(error, MethodNotAllowedError)
            destination.close(complete=False)
            with suppress(ObjectCacheError):  # it expires by itself
                self.release(match)
            raise

    def _ask(
        self, asked: MatchRequest, options: RetrieveOptions, destination: Destination, room: int, deadline_s: float
    ) -> tuple[OneTrip, MatchAndRetrieveAnswer]:
        """As `retrieve` asks: once more where that may help."""
        asked_again = False
        while True:
            session = self._find_session()
            places = session is not None and session.kind.places
            request = MatchAndRetrieveRequest(
                asked,
                Target(
                    session.kind if session else TargetKind.HTTP,
                    session.id if session else b"",
                    destination.buffer.offset if places else 0,
                ),
                room,
                next(self._deliveries),
                layers_per_unit=options.layers_per_unit,
                windows_s=options.windows_s,
                gang=options.gang,
                deadline_s=options.deadline_s,
                trace=options.trace,
            )
            trip = (
                SessionTrip(session, request, destination, self._fencer)
                if session
                else ResponseTrip(self._http, request, destination, self.options.verification())
            )
            try:
                return trip, trip.ask(self._path("kv-match-and-retrieve"))
            except (SessionNotFoundError, GatewayUnavailableError):
                if session is not None:
                    self._drop_session(session)
                late = time.perf_counter() >= deadline_s
                if asked_again or late or not destination.wait_fenced(self.options.fence_s):
                    raise
                asked_again = True

    def _arriving(
        self, trip: OneTrip, match: Match, accepted: RetrieveAnswer, options: RetrieveOptions, asked_s: float
    ) -> Retrieval:
        destination, request = trip.destination, trip.request
        geometry = delivery_geometry(tuple(part.shape for part in match.parts), accepted.layers_per_unit)
        if geometry.total_bytes > request.room_bytes:
            raise DeliveryError("the gateway delivers more than there is room for")
        destination.shrink(geometry.total_bytes)
        delivery = TieredDelivery(self.tiering, match.namespace, match.parts, look_up=False)
        retrieval = Retrieval(
            geometry,
            destination.buffer.view,
            deadline_s=asked_s + options.deadline_s,
            on_close=delivery.closer(geometry, self.pool, destination),
        )
        retrieval.requested_s = asked_s

        def damaged() -> None:
            parts = tuple(delivery.describe(part) for part in match.parts)
            self._fencer.report_damage(self._http, request.descriptor(parts, b""))

        trip.begin(retrieval, match.parts, damaged)  # frames may wait for it
        self._count(retrieval, trip.expected)
        self._accepted(accepted, request, delivery, retrieval, trip.http)
        return retrieval

    # -- retrieving -------------------------------------------------------------------------------

    def retrieve(
        self, match: Match, *, parts: Sequence[PartId] | None = None, options: RetrieveOptions | None = None
    ) -> Retrieval:
        wanted = options or RetrieveOptions()
        delivery = TieredDelivery(self.tiering, match.namespace, select_parts(match, parts))
        per_unit = wanted.layers_per_unit or 1  # until the gateway has said what it chose
        deadline_s = time.perf_counter() + wanted.deadline_s
        destination: Destination | None = None
        try:
            asked_again = False
            while True:
                geometry = delivery_geometry(tuple(part.shape for part in delivery.parts), per_unit)
                destination = destination or Destination(self.pool, self.pool.allocate(geometry.total_bytes))
                retrieval = Retrieval(
                    geometry,
                    destination.buffer.view,
                    deadline_s=deadline_s,
                    on_close=delivery.closer(geometry, self.pool, destination),
                )
                landing = Landing(retrieval, destination)
                try:
                    self._start(match, delivery, wanted, retrieval, destination, landing)
                except (SessionNotFoundError, GatewayUnavailableError, HeldVersionError) as error:
                    # The gateway was restarted, or dropped the session, or the store has other versions than are held:
                    # worth asking once more, for either, if nothing hangs.
                    delivery.skip(landing)
                    late = time.perf_counter() >= deadline_s
                    again = delivery.give_up() if isinstance(error, HeldVersionError) else not asked_again
                    asked_again = asked_again or not isinstance(error, HeldVersionError)
                    if not again or late or not destination.wait_fenced(self.options.fence_s):
                        raise
                except BaseException:
                    delivery.skip(landing)
                    raise
                else:
                    delivery.read(geometry, landing)
                    return retrieval
        except BaseException:
            delivery.drop()
            if destination is not None:
                destination.close(complete=False)
            raise

    def _start(
        self,
        match: Match,
        delivery: TieredDelivery,
        options: RetrieveOptions,
        retrieval: Retrieval,
        destination: Destination,
        landing: Landing,
    ) -> None:
        if delivery.all_held:
            destination.begin(cancel=delivery.cancel)
            return
        session = self._find_session()
        if session is not None:
            self._start_in_session(session, match, delivery, options, retrieval, destination, landing)
        else:
            self._start_response(match, delivery, options, retrieval, destination, landing)

    def _start_in_session(
        self,
        session: DataSession,
        match: Match,
        delivery: TieredDelivery,
        options: RetrieveOptions,
        retrieval: Retrieval,
        destination: Destination,
        landing: Landing,
    ) -> None:
        offset = destination.buffer.offset if session.kind.places else 0
        target = Target(session.kind, session.id, offset)
        descriptor = self._descriptor(match, delivery, options, target)

        def cancel() -> None:
            delivery.cancel()
            self._fencer.fence(session, descriptor, destination)

        destination.begin(cancel)
        expected = self._expected(descriptor, delivery, session.streams, retrieval, landing)
        holds = session.receivers.holds
        expecting = False

        def expect() -> None:
            nonlocal expecting
            expecting = True
            session.receivers.expect(expected, destination.buffer.offset)

        try:
            if not holds:
                expect()
            body = session.http.request(
                "POST",
                self._path("kv-retrieve"),
                descriptor.encode(),
                timeout_s=options.deadline_s,
                resend=False,
                meanwhile=expect if holds else None,
            )
        except BaseException as error:
            if not expecting:
                expected.on_fenced()  # it was not sent
            if isinstance(error, SessionNotFoundError | GatewayUnavailableError):
                self._drop_session(session)
            elif isinstance(error, RequestError) and expecting:
                session.receivers.fail(descriptor.delivery, error)
            raise
        # After any other error nobody knows whether it was accepted: it is cancelled with its destination.
        self._accepted(RetrieveAnswer.decode(body), descriptor, delivery, retrieval, session.http)

    def _start_response(
        self,
        match: Match,
        delivery: TieredDelivery,
        options: RetrieveOptions,
        retrieval: Retrieval,
        destination: Destination,
        landing: Landing,
    ) -> None:
        descriptor = self._descriptor(match, delivery, options, Target(TargetKind.HTTP))
        expected = self._expected(descriptor, delivery, 1, retrieval, landing)
        reception = ResponseReception(self._http, expected, self.options.verification())

        def cancel() -> None:
            delivery.cancel()
            reception.cancel()

        destination.begin(cancel)
        answer = reception.start(self._path("kv-retrieve"), descriptor)
        if answer is not None:
            self._accepted(answer, descriptor, delivery, retrieval, self._http)

    def _accepted(
        self,
        answer: RetrieveAnswer,
        asked: Asked,
        delivery: TieredDelivery,
        retrieval: Retrieval,
        http: GatewayHttp,
    ) -> None:
        """Take over what the gateway says of a delivery that it has accepted."""
        # None where not all of it is verified, so that none of it is kept.
        delivery.versions = answer.versions if self.options.verify == Level.ALL else ()
        retrieval.rate_bytes_s = answer.rate_bytes_s
        retrieval.regroup(answer.layers_per_unit, answer.reason)
        retrieval.on_windows = partial(self._corrections.put, http, asked.target.session, asked.delivery, asked.epoch)

    def _expected(
        self,
        descriptor: Descriptor,
        delivery: TieredDelivery,
        streams: int,
        retrieval: Retrieval,
        landing: Landing,
    ) -> Expected:
        def failed(error: ObjectCacheError) -> None:
            retrieval.fail(error)
            if isinstance(error, IntegrityError):
                self._fencer.report_damage(self._http, descriptor)

        expected = Expected(
            delivery=descriptor.delivery,
            epoch=descriptor.epoch,
            geometry=retrieval.geometry,
            parts=[ExpectedPart(part.part.group, part.part.shard, part.keys) for part in delivery.parts],
            memory=retrieval.memory,
            streams=streams,
            on_section=landing.land_section,
            on_failed=failed,
            on_fenced=landing.fence,
            shared=descriptor.target.kind.places,
        )
        self._count(retrieval, expected)
        return expected

    def _count(self, retrieval: Retrieval, expected: Expected) -> None:
        if self.options.receiver == "threads":  # a receiving process says what has landed, no more
            reception = expected.reception
            retrieval.count_bytes = lambda: reception.verified_bytes

    def _descriptor(
        self,
        match: Match,
        delivery: TieredDelivery,
        options: RetrieveOptions,
        target: Target,
    ) -> Descriptor:
        return Descriptor(
            namespace=match.namespace.digest,
            parts=tuple(delivery.describe(part) for part in delivery.parts),
            target=target,
            delivery=next(self._deliveries),
            layers_per_unit=options.layers_per_unit,
            windows_s=options.windows_s,
            gang=options.gang,
            deadline_s=options.deadline_s,
            lease=match.lease.id if match.lease else b"",
            trace=options.trace,
        )

    def _find_session(self) -> DataSession | None:
        """None where deliveries come in responses. Raises as `DataSession.open`."""
        if self._by_session:
            try:
                return self._open_session()
            except DataConnectionsRefusedError:
                if self.options.target != "auto":
                    raise
                self._by_session = False
        return None

    def _open_session(self) -> DataSession:
        with self._session_lock:
            if self._session is None or self._session.dead:
                if self._session is not None:
                    self._session.close()
                options = self.options
                self._session = DataSession.open(
                    self._http,
                    self.bucket,
                    self.pool,
                    target=options.target,
                    streams=options.streams,
                    receiver=options.receiver,
                    receiver_processes=options.receiver_processes,
                    verify=options.verification(),
                    timeout_s=options.timeout_s,
                )
            return self._session

    def _drop_session(self, session: DataSession) -> None:
        with self._session_lock:
            if self._session is session:
                self._session = None
        session.close()

    # -- storing ----------------------------------------------------------------------------------

    def store(
        self, namespace: Namespace, chain: KeyChain, part: PartId, *, first: int = 0, stop: int | None = None
    ) -> SegmentUpload | None:
        return self._storing.begin(namespace, chain, part, first, stop)

    stores_elsewhere = True

    def store_elsewhere(
        self, namespace: Namespace, chain: KeyChain, part: PartId, *, first: int = 0, stop: int | None = None
    ) -> ForeignUpload | None:
        """Never None: whether all is covered is what the gateway answers to whoever writes it."""
        return self._storing.elsewhere(namespace, chain, part, first, stop)

    def commit(self, tickets: Sequence[UploadTicket], *, discard: Sequence[UploadTicket] = ()) -> None:
        self._storing.commit(tickets, discard)

    # -- the rest ---------------------------------------------------------------------------------

    def _path(self, resource: str) -> str:
        return f"/{self.bucket}?{resource}"

    def _request(self, method: str, resource: str, body: bytes) -> bytes:
        return self._http.request(method, self._path(resource), body)

    def register_buffers(self, registrar: Callable[[int, int], Callable[[], None]]) -> None:
        self.pool.register(registrar)
        if self.tiering is not None:
            self.tiering.register(registrar)

    def close(self) -> None:
        with self._session_lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()
        self._corrections.close()
        self._fencer.close()
        self._http.close()
        if self.tiering is not None:
            self.tiering.close()
        self.pool.close()


def _match(namespace: Namespace, chain: KeyChain, answer: MatchAnswer) -> Match:
    if not answer.tokens:
        return Match(namespace, 0)
    matched = tuple(
        matched_part(namespace, chain, PartId(group, shard), first, stop) for group, shard, first, stop in answer.parts
    )
    lease = Lease(answer.lease, answer.ttl_s, answer.rate_bytes_s, answer.layers_per_unit)
    return Match(namespace, answer.tokens, matched, lease)
