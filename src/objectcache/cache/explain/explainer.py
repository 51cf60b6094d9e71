"""What may be asked, who answers it over a store and its catalog, and both as JSON bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from objectcache.cache.explain.codec import decode, encode, load
from objectcache.cache.explain.inspecting import inspect, segment_named, verify_layer
from objectcache.cache.explain.listing import list_stored, used_by_name
from objectcache.cache.explain.results import (
    Explanation,
    Inspection,
    KeyInspection,
    LayerVerdict,
    Listing,
    NamespaceInspection,
    SegmentInspection,
)
from objectcache.cache.explain.stored import Stored, check_digits
from objectcache.cache.explain.why import why_key, why_tokens
from objectcache.catalog import Catalog
from objectcache.errors import RequestError
from objectcache.keys import Namespace
from objectcache.stores import Store

WIRE_VERSION = 1
DEFAULT_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class ListRequest:
    """`namespace` is how a digest begins (empty: all). `limit` bounds the segments that are listed; 0 does not."""

    namespace: str = ""
    segments: bool = False
    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True, slots=True)
class InspectRequest:
    what: str


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """The layer at `position` of a segment."""

    segment: str
    position: int


@dataclass(frozen=True, slots=True)
class WhyRequest:
    """Either `key`, or `tokens` with `namespace`: how its digest begins (hex), or its JSON."""

    key: str = ""
    namespace: str = ""
    tokens: tuple[int, ...] = ()


class Explains(Protocol):
    """Calls block and raise ObjectCacheError."""

    def list(self, request: ListRequest) -> Listing: ...
    def inspect(self, request: InspectRequest) -> Inspection: ...
    def verify(self, request: VerifyRequest) -> LayerVerdict: ...
    def why(self, request: WhyRequest) -> Explanation: ...


class Explainer(Explains):
    """Answers from a store and a catalog that is up to its logs. Nothing is changed. May be used from any thread.

    `used` are the catalogs that know when segments were last used. `salted_by_prefix` says whether a salted namespace
    may be asked about by whoever knows how its digest begins: on one's own disk, but not over the network.
    """

    def __init__(self, store: Store, catalog: Catalog, *, used: Sequence[Catalog] = (), salted_by_prefix: bool) -> None:
        self._stored = Stored(store, catalog)
        self._used = used
        self._salted_by_prefix = salted_by_prefix

    def list(self, request: ListRequest) -> Listing:
        digits = check_digits(request.namespace) if request.namespace else ""
        return list_stored(self._stored, used_by_name(self._used), digits, request.segments, request.limit)

    def inspect(self, request: InspectRequest) -> Inspection:
        return inspect(self._stored, used_by_name(self._used), request.what)

    def verify(self, request: VerifyRequest) -> LayerVerdict:
        return verify_layer(self._stored, segment_named(request.segment), request.position)

    def why(self, request: WhyRequest) -> Explanation:
        if bool(request.key) == bool(request.namespace):
            raise RequestError("why: either a key, or tokens with a namespace")
        if request.key:
            return why_key(self._stored, check_digits(request.key))
        given = request.namespace.strip()
        asked = Namespace.from_json(given.encode()) if given.startswith("{") else check_digits(given)
        return why_tokens(self._stored, asked, request.tokens, salted_by_prefix=self._salted_by_prefix)


INSPECTIONS: dict[str, type[Inspection]] = {
    "namespace": NamespaceInspection,
    "segment": SegmentInspection,
    "key": KeyInspection,
}


def kind_of(inspection: Inspection) -> str:
    """What was inspected: the name of its kind on the wire."""
    return next(name for name, kind in INSPECTIONS.items() if isinstance(inspection, kind))


def answer(explainer: Explains, body: bytes) -> bytes:
    """What a JSON body asks for, as JSON. Raises RequestError for a malformed one, and what answering does."""
    where = "explain"
    data = load(body, where)
    if data.get("version") != WIRE_VERSION:
        raise RequestError(f"{where}.version {data.get('version')!r} is not known here; {WIRE_VERSION} is")
    ask = data.get("ask")
    if ask == "list":
        return encode(explainer.list(decode(ListRequest, data, where)))
    if ask == "inspect":
        found = explainer.inspect(decode(InspectRequest, data, where))
        return encode(found, kind=kind_of(found))
    if ask == "verify":
        return encode(explainer.verify(decode(VerifyRequest, data, where)))
    if ask == "why":
        return encode(explainer.why(decode(WhyRequest, data, where)))
    raise RequestError(f"{where}.ask {ask!r} is not known here: list, inspect, verify and why are")
