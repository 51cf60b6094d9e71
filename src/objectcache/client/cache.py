"""The same cache through a gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from objectcache.cache.ahead import Ahead
from objectcache.cache.base import (
    ForeignUpload,
    Lease,
    Match,
    MatchedPart,
    PartId,
    RetrieveOptions,
    SegmentUpload,
    UploadTicket,
    check_most_tokens,
    matched_part,
)
from objectcache.cache.destination import Destination
from objectcache.cache.retrieval import Retrieval
from objectcache.cache.tiering import TieredDelivery
from objectcache.client.abilities import Ability
from objectcache.client.deliveries import Deliveries
from objectcache.client.one_trip import OneTrip, ResponseTrip, SessionTrip, Wanted, room_bytes
from objectcache.client.options import ClientOptions
from objectcache.client.storing import GatewayStoring
from objectcache.descriptor import Target, TargetKind
from objectcache.errors import (
    BufferPoolExhaustedError,
    DeliveryError,
    GatewayUnavailableError,
    HeldVersionError,
    MethodNotAllowedError,
    ObjectCacheError,
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


class _UnboundedError(ObjectCacheError):
    """More than what is wanted at most comes, from a gateway that knows nothing of that."""


class GatewayCache(Deliveries):
    """A bucket of a gateway."""

    def __init__(
        self, host: str, port: int, bucket: str, options: ClientOptions | None = None, *, tls: bool = False
    ) -> None:
        super().__init__(host, port, bucket, options, tls=tls)
        where = {"host": host, "port": port, "tls": tls, "options": self.options.to_wire()}
        self._storing = GatewayStoring(self._http, bucket, where)
        self._one_trip = Ability()  # both in one,
        self._held = Ability()  # without what is held here,
        self._bound = Ability()  # and no more than is wanted

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
        most_tokens: int | None = None,
        ahead: Ahead | None = None,
    ) -> tuple[Match, Retrieval | None]:
        check_most_tokens(most_tokens)
        now_s = time.monotonic()
        in_one = self._one_trip.expected(now_s) and (most_tokens is None or self._bound.expected(now_s))
        room = room_bytes(namespace.layout, len(chain), parts, most_tokens)
        destination = self._set_aside(room) if room and in_one else None
        if destination is not None:
            wanted = Wanted(namespace, chain, parts, most_tokens)
            try:
                asked = wanted.whole().parts if self.tiering is not None else ()
                delivery = TieredDelivery(self.tiering, namespace, asked, ahead)
            except BaseException:
                destination.close(complete=False)
                raise
            if not delivery.held or self._held.expected(now_s):
                with suppress(MethodNotAllowedError, _UnboundedError):
                    return self._match_and_retrieve(wanted, options or RetrieveOptions(), delivery, destination)
            else:
                destination.close(complete=False)
            delivery.drop()
        return super().match_and_retrieve(namespace, chain, parts=parts, options=options, most_tokens=most_tokens)

    def _set_aside(self, size_bytes: int) -> Destination | None:
        """None where that is more than half of what is free: most of it may not come, and others would miss it."""
        usage = self.pool.usage()
        if size_bytes > (usage.total_bytes - usage.in_use_bytes - usage.quarantined_bytes) // 2:
            return None
        with suppress(BufferPoolExhaustedError):  # it is free, but not in one piece
            return Destination(self.pool, self.pool.allocate(size_bytes))
        return None

    def _match_and_retrieve(
        self, wanted: Wanted, options: RetrieveOptions, delivery: TieredDelivery, destination: Destination
    ) -> tuple[Match, Retrieval | None]:
        """`delivery` and `destination` are of all that is wanted. Raises MethodNotAllowedError from an old gateway, and
        _UnboundedError."""
        asked_s = time.perf_counter()
        match = Match(wanted.namespace, 0)
        try:

            def likely() -> Sequence[MatchedPart]:
                delivery.prepare()
                return delivery.parts or wanted.whole().parts

            trip, answer = self._ask(wanted, options, delivery, destination, asked_s + options.deadline_s, likely)
            match = _match(wanted.namespace, wanted.chain, answer.match)
            coming = wanted.bounded(match)
            delivery.narrow(coming.parts)
            if answer.accepted is not None:
                if coming is not match and not answer.bounded:
                    self._bound.missed(time.monotonic())
                    raise _UnboundedError("an old gateway delivers all that matches")
                if delivery.held and not answer.held:  # all of it comes
                    self._held.missed(time.monotonic())
                    delivery.ask_for_all()
                return match, self._arriving(trip, coming, delivery, answer.accepted, options, asked_s)
            trip.withdraw()
            destination.close(complete=False)
            return match, self._retrieve(coming, delivery, options) if match.tokens else None
        except BaseException as error:
            if isinstance(error, MethodNotAllowedError):
                self._one_trip.missed(time.monotonic())
            delivery.cancel()
            delivery.drop()
            destination.close(complete=False)
            with suppress(ObjectCacheError):  # it expires by itself
                self.release(match)
            raise

    def _ask(
        self,
        wanted: Wanted,
        options: RetrieveOptions,
        delivery: TieredDelivery,
        destination: Destination,
        deadline_s: float,
        likely: Callable[[], Sequence[MatchedPart]],
    ) -> tuple[OneTrip, MatchAndRetrieveAnswer]:
        """As `retrieve` asks: once more where that may help."""
        asked, asked_again = wanted.request, False
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
                len(destination.buffer.view),
                next(self._deliveries),
                layers_per_unit=options.layers_per_unit,
                windows_s=options.windows_s,
                gang=options.gang,
                deadline_s=options.deadline_s,
                trace=options.trace,
                held=delivery.held,
                most_tokens=wanted.most_tokens or 0,
            )
            trip = (
                SessionTrip(session, request, destination, self._fencer, delivery.take_ahead, likely)
                if session
                else ResponseTrip(self._http, request, destination, self.options.verification(), delivery.take_ahead)
            )
            try:
                return trip, trip.ask(self._path("kv-match-and-retrieve"))
            except (SessionNotFoundError, GatewayUnavailableError, HeldVersionError) as error:
                stale = isinstance(error, HeldVersionError)
                if session is not None and not stale:
                    self._drop_session(session)
                late = time.perf_counter() >= deadline_s
                again = delivery.give_up() if stale else not asked_again
                asked_again = asked_again or not stale
                if not again or late or not destination.wait_fenced(self.options.fence_s):
                    raise

    def _arriving(
        self,
        trip: OneTrip,
        coming: Match,
        delivery: TieredDelivery,
        accepted: RetrieveAnswer,
        options: RetrieveOptions,
        asked_s: float,
    ) -> Retrieval:
        parts = delivery.parts
        trip.confirm(parts, accepted.layers_per_unit)  # frames may wait for it
        destination, request = trip.destination, trip.request
        geometry = delivery_geometry(tuple(part.shape for part in parts), accepted.layers_per_unit)
        if geometry.total_bytes > request.room_bytes:
            raise DeliveryError("the gateway delivers more than there is room for")
        destination.shrink(geometry.total_bytes)
        retrieval = Retrieval(
            geometry,
            destination.buffer.view,
            deadline_s=asked_s + options.deadline_s,
            on_close=delivery.closer(geometry, self.pool, destination),
        )
        retrieval.requested_s = asked_s

        def damaged() -> None:
            described = tuple(delivery.describe(part) for part in coming.parts)
            self._fencer.report_damage(self._http, request.descriptor(described, b""))

        trip.begin(retrieval, parts, damaged, partial(delivery.read, geometry))
        self._count(retrieval, trip.expected)
        self._accepted(accepted, request, delivery, retrieval, trip.http)
        return retrieval

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
