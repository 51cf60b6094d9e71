"""Asking a gateway what is stored and why something does not match."""

from __future__ import annotations

from typing import Any

from objectcache.cache.explain import (
    Explains,
    Explanation,
    Inspection,
    InspectRequest,
    LayerVerdict,
    Listing,
    ListRequest,
    VerifyRequest,
    WhyRequest,
)
from objectcache.cache.explain.codec import DataclassLike, decode, encode, load
from objectcache.cache.explain.explainer import INSPECTIONS, WIRE_VERSION
from objectcache.client.http import GatewayHttp
from objectcache.errors import RequestError


def ask(http: GatewayHttp, bucket: str, what: str, request: DataclassLike) -> dict[str, Any]:
    """The answer's fields. Raises what the gateway answers, GatewayUnavailableError, RequestError for no answer of
    ours."""
    body = encode(request, version=WIRE_VERSION, ask=what)
    return load(http.request("POST", f"/{bucket}?kv-explain", body), "the gateway's answer")


class GatewayExplainer(Explains):
    """A bucket of a gateway."""

    def __init__(self, http: GatewayHttp, bucket: str) -> None:
        self._http = http
        self._bucket = bucket

    def list(self, request: ListRequest) -> Listing:
        return decode(Listing, ask(self._http, self._bucket, "list", request), "listing")

    def inspect(self, request: InspectRequest) -> Inspection:
        data = ask(self._http, self._bucket, "inspect", request)
        kind = INSPECTIONS.get(str(data.get("kind")))
        if kind is None:
            raise RequestError(f"the gateway answered with something unknown here: {data.get('kind')!r}")
        return decode(kind, data, "inspection")

    def verify(self, request: VerifyRequest) -> LayerVerdict:
        return decode(LayerVerdict, ask(self._http, self._bucket, "verify", request), "verdict")

    def why(self, request: WhyRequest) -> Explanation:
        return decode(Explanation, ask(self._http, self._bucket, "why", request), "explanation")
