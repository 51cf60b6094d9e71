"""Match and retrieve in one round trip: what comes is known with the answer, and its frames may be there before."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from objectcache.cache.base import Match, MatchedPart, PartId, whole_match
from objectcache.cache.destination import Destination
from objectcache.cache.landing import Landing
from objectcache.cache.retrieval import Retrieval
from objectcache.client.fencing import Fencer
from objectcache.client.http import GatewayHttp
from objectcache.client.response import ResponseReception
from objectcache.client.session import DataSession
from objectcache.errors import IntegrityError, KeyNotFoundError, ObjectCacheError, RequestError
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import ALIGNMENT_BYTES, KVLayout, delivery_geometry
from objectcache.messages import Asked, MatchAndRetrieveAnswer, MatchAndRetrieveRequest, MatchRequest
from objectcache.transports.receiver import Expected, ExpectedPart
from objectcache.transports.verification import Verification


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: of `parts` (None: all) what matches of `chain`, and `most_tokens` of that, if given."""

    namespace: Namespace
    chain: KeyChain
    parts: Sequence[PartId] | None = None
    most_tokens: int | None = None

    @property
    def request(self) -> MatchRequest:
        return MatchRequest(self.namespace.digest, self.chain, tuple((p.group, p.shard) for p in self.parts or ()))

    def bounded(self, match: Match) -> Match:
        """What of `match` is delivered."""
        return match.bounded(self.most_tokens)

    def whole(self) -> Match:
        """What is delivered if all matches."""
        return self.bounded(whole_match(self.namespace, self.chain, self.parts))


def room_bytes(layout: KVLayout, num_keys: int, parts: Sequence[PartId] | None, most_tokens: int | None = None) -> int:
    """What a destination of `parts` (None: all) takes at most, of whatever matches of a chain of `num_keys`, `bounded`
    to `most_tokens`; 0 where nothing can. Raises LayoutError for parts that the layout does not have."""
    tokens = num_keys * layout.key_tokens
    if parts is not None:
        shards = [(layout.group(group), layout.shard(group, shard)) for group, shard in parts]
    else:
        shards = [(group, shard) for group in layout.groups for shard in group.shards]
    if most_tokens is not None and not any(group.needed_chunks for group, _ in shards):  # else nothing is shortened
        tokens = min(tokens, most_tokens)
    room = 0
    for group, shard in shards:
        chunks = tokens // group.chunk_tokens
        if not chunks:
            return 0
        room += min(chunks, group.needed_chunks or chunks) * shard.chunk_bytes + len(shard.layers) * ALIGNMENT_BYTES
    return room


class OneTrip(ABC):
    """One attempt: `ask`, and then either `confirm` and `begin`, or `withdraw`. Where any of them raises, `destination`
    is to be closed, which cancels what may come."""

    def __init__(
        self,
        request: MatchAndRetrieveRequest,
        destination: Destination,
        streams: int,
        meanwhile: Callable[[], None],
    ) -> None:
        """`meanwhile()` is called once the gateway has been asked."""
        self._meanwhile = meanwhile
        self.request = request
        self.destination = destination
        self._lock = threading.Lock()
        self._retrieval: Retrieval | None = None
        self._landing: Landing | None = None
        self._early: list[int] = []
        """Sections that were there before `begin`."""
        self._error: ObjectCacheError | None = None
        self._fenced = False
        self._on_damage: Callable[[], None] = lambda: None
        self.expected = Expected(
            request.delivery,
            request.epoch,
            None,
            (),
            destination.buffer.view,
            streams,
            on_section=self._land,
            on_failed=self._fail,
            on_fenced=self._fence,
            shared=request.target.kind.places,
        )

    http: GatewayHttp
    """Which reaches the gateway that delivers."""

    @abstractmethod
    def ask(self, path: str) -> MatchAndRetrieveAnswer:
        """Raises what the gateway answers, GatewayUnavailableError, DeliveryTimeoutError."""

    @abstractmethod
    def withdraw(self) -> None:
        """Nothing comes."""

    @abstractmethod
    def confirm(self, parts: Sequence[MatchedPart], layers_per_unit: int) -> None:
        """This is what comes, for who can do something with it before `begin`."""

    @abstractmethod
    def _cancel(self) -> None:
        """Have nothing written any more, and `_fence` called then."""

    def begin(
        self,
        retrieval: Retrieval,
        parts: Sequence[MatchedPart],
        on_damage: Callable[[], None],
        read_held: Callable[[Landing], None],
    ) -> None:
        """This is what comes, beside what the shapes of `parts` say is held: that is read first. Raises
        GatewayUnavailableError, BufferPoolExhaustedError (a receiving process has no room to keep track of it)."""
        with self._lock:
            self._retrieval, self._on_damage = retrieval, on_damage
            self._landing = landing = Landing(retrieval, self.destination)
            error, early = self._error, self._early
            if self._fenced:  # too early: what is held will still be written
                self.destination.begin(self._cancel)
                landing.fence()
        if error is not None:
            self._fail(error)
        read_held(landing)
        for section in early:
            landing.land_section(section)
        self._shape(retrieval, _expected_parts(parts))

    @abstractmethod
    def _shape(self, retrieval: Retrieval, parts: Sequence[ExpectedPart]) -> None: ...

    # -- whom the receivers tell ------------------------------------------------------------------

    def _land(self, section: int) -> None:
        with self._lock:
            landing = self._landing
            if landing is None:
                self._early.append(section)
                return
        landing.land_section(section)

    def _fence(self) -> None:
        with self._lock:
            self._fenced = True
            (self._landing or self.destination).fence()

    def _fail(self, error: ObjectCacheError) -> None:
        with self._lock:
            self._error, retrieval = error, self._retrieval
        if retrieval is not None:
            retrieval.fail(error)
            if isinstance(error, IntegrityError):
                self._on_damage()


class SessionTrip(OneTrip):
    """Over the streams of a session."""

    def __init__(
        self,
        session: DataSession,
        request: MatchAndRetrieveRequest,
        destination: Destination,
        fencer: Fencer,
        meanwhile: Callable[[], None],
        likely: Callable[[], Sequence[MatchedPart]],
    ) -> None:
        """`likely()` says what comes if all matches."""
        super().__init__(request, destination, session.streams, meanwhile)
        self.http = session.http
        self._session = session
        self._fencer = fencer
        self._likely = likely
        # What holds frames is told once it is known what they are of, and writes nothing before.
        self._expecting = not session.receivers.holds
        destination.begin(self._cancel)

    def _cancel(self) -> None:
        self._fencer.fence(self._session, self.request, self.destination)
        if not self._expecting:
            self._fence()

    def ask(self, path: str) -> MatchAndRetrieveAnswer:
        receivers, request = self._session.receivers, self.request
        try:
            if self._expecting:
                receivers.expect(self.expected, self.destination.buffer.offset)
            body = self._session.control.ask(
                Asked.MATCH_AND_RETRIEVE,
                path,
                request.encode(),
                timeout_s=request.deadline_s,
                meanwhile=self._while_asked,
            )
        except RequestError as error:
            self._refused(error)
            raise
        except BaseException:
            # Nobody knows whether it was accepted. It is cancelled with its destination, or here where nobody will
            # say when that is fenced.
            if not self._expecting:
                self._cancel()
            raise
        return MatchAndRetrieveAnswer.decode(body)

    def _while_asked(self) -> None:
        self._meanwhile()
        if self._session.receivers.holds:
            self._foretell()

    def _foretell(self) -> None:
        """While the gateway works: what takes time once it has answered, and is probably the same then."""
        parts = self._likely()
        if not parts:
            return
        geometry = delivery_geometry(tuple(part.shape for part in parts), self.request.layers_per_unit or 1)
        offset = self.destination.buffer.offset
        self._session.receivers.foretell(self.expected, geometry, _expected_parts(parts), offset)
        # It keeps them.
        _ = geometry.unit_of, geometry.unit_bytes, geometry.unit_wanted_bytes, geometry.sections.all_chunks

    def withdraw(self) -> None:
        self._refused(KeyNotFoundError("nothing matched"))

    def _refused(self, error: ObjectCacheError) -> None:
        if self._expecting:
            self._session.receivers.fail(self.request.delivery, error)
        else:
            self._session.receivers.forget(self.expected)
            self._fence()

    def confirm(self, parts: Sequence[MatchedPart], layers_per_unit: int) -> None:
        receivers = self._session.receivers
        if receivers.holds:
            shapes = [part.shape for part in parts]
            self._expecting = True  # while it is told: whoever is interrupted then must wait for their fence
            self._expecting = receivers.confirm(self.expected, _expected_parts(parts), shapes, layers_per_unit)

    def _shape(self, retrieval: Retrieval, parts: Sequence[ExpectedPart]) -> None:
        told, self._expecting = self._expecting, True
        try:
            self._session.receivers.shape(self.expected, retrieval.geometry, parts, self.destination.buffer.offset)
        except ObjectCacheError:
            if not told:  # the gateway sends it all the same, to nobody, and others wait behind it
                self._fencer.fence(self._session, self.request, self.destination)
            raise


class ResponseTrip(OneTrip):
    """In the response to the request."""

    def __init__(
        self,
        http: GatewayHttp,
        request: MatchAndRetrieveRequest,
        destination: Destination,
        verify: Verification,
        meanwhile: Callable[[], None],
    ) -> None:
        super().__init__(request, destination, 1, meanwhile)
        self.http = http
        self._reception = ResponseReception(http, self.expected, verify)
        self._read_on: Callable[[], None] = lambda: None
        destination.begin(self._cancel)

    def _cancel(self) -> None:
        self._reception.cancel()

    def ask(self, path: str) -> MatchAndRetrieveAnswer:
        answer, self._read_on = self._reception.match(path, self.request, self._meanwhile)
        return answer

    def withdraw(self) -> None:
        self._reception.withdraw(KeyNotFoundError("nothing matched"))

    def confirm(self, parts: Sequence[MatchedPart], layers_per_unit: int) -> None:
        """Its frames are read after `begin`."""

    def _shape(self, retrieval: Retrieval, parts: Sequence[ExpectedPart]) -> None:
        self._reception.shape(retrieval.geometry, parts)
        self._read_on()


def _expected_parts(parts: Sequence[MatchedPart]) -> list[ExpectedPart]:
    return [ExpectedPart(part.part.group, part.part.shard, part.keys) for part in parts]
