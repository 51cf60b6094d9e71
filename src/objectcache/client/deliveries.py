"""Deliveries from a gateway: sessions, and retrievals of what has matched."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Sequence
from functools import partial

from objectcache.buffers import BufferPool
from objectcache.cache.base import (
    KVCache,
    Match,
    PartId,
    RetrieveOptions,
    select_parts,
)
from objectcache.cache.destination import Destination
from objectcache.cache.landing import Landing
from objectcache.cache.retrieval import Retrieval
from objectcache.cache.tiering import TieredDelivery
from objectcache.client.abilities import Ability
from objectcache.client.corrections import WindowCorrections
from objectcache.client.fencing import Asked, Fencer
from objectcache.client.http import GatewayHttp
from objectcache.client.options import ClientOptions
from objectcache.client.response import ResponseReception
from objectcache.client.session import DataSession
from objectcache.descriptor import Descriptor, Target, TargetKind
from objectcache.errors import (
    DataConnectionsRefusedError,
    GatewayUnavailableError,
    HeldVersionError,
    IntegrityError,
    ObjectCacheError,
    RequestError,
    SessionNotFoundError,
)
from objectcache.layout import delivery_geometry
from objectcache.messages import RetrieveAnswer
from objectcache.transports.receiver import Expected, ExpectedPart
from objectcache.transports.verification import Level


class Deliveries(KVCache):
    """The part of a GatewayCache that retrieves. The destination of every delivery comes from one pool of registered
    memory."""

    def __init__(
        self, host: str, port: int, bucket: str, options: ClientOptions | None = None, *, tls: bool = False
    ) -> None:
        self.options = options or ClientOptions()
        self._by_session = self.options.target != "http"
        self.bucket = bucket
        # What NIXL registers is no other process's to map.
        shared = self.options.target != "nixl"
        self.pool = BufferPool(self.options.buffer_bytes, prefault=self.options.prefault, shared=shared)
        self.tiering = self.options.tier.open()
        self._http = GatewayHttp(self.options.endpoint(host, port, tls=tls), timeout_s=self.options.timeout_s)
        self._session: DataSession | None = None
        self._session_lock = threading.Lock()
        self._controls = Ability()
        self._fencer = Fencer(bucket, self.options.fence_s)
        self._deliveries = itertools.count(secrets.randbits(48))
        self._corrections = WindowCorrections(self._path("kv-windows"))

    # -- retrieving -------------------------------------------------------------------------------

    def retrieve(
        self, match: Match, *, parts: Sequence[PartId] | None = None, options: RetrieveOptions | None = None
    ) -> Retrieval:
        delivery = TieredDelivery(self.tiering, match.namespace, select_parts(match, parts))
        return self._retrieve(match, delivery, options or RetrieveOptions())

    def _retrieve(self, match: Match, delivery: TieredDelivery, wanted: RetrieveOptions) -> Retrieval:
        """What is looked up already: dropped where this raises."""
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

        destination.begin(partial(self._fencer.fence, session, descriptor, destination))
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
        destination.begin(reception.cancel)
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

    # -- sessions ---------------------------------------------------------------------------------

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
                    controls=self._controls,
                )
            return self._session

    def _drop_session(self, session: DataSession) -> None:
        with self._session_lock:
            if self._session is session:
                self._session = None
        session.close()

    # -- requests ---------------------------------------------------------------------------------

    def _path(self, resource: str) -> str:
        return f"/{self.bucket}?{resource}"

    def _request(self, method: str, resource: str, body: bytes) -> bytes:
        return self._http.request(method, self._path(resource), body)
