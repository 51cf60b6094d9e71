"""What is asked of bandwidth: windows that clients correct, and caps that operators see and set."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from objectcache.config import parse_rate
from objectcache.errors import ConfigError, RequestError
from objectcache.gateway.bandwidth import Bandwidth
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.running import GATEWAY
from objectcache.gateway.sharing import Sharing
from objectcache.messages import WindowsBatch
from objectcache.scheduling import POLICIES

MAX_NAMES = 1024


class BandwidthRoutes:
    """Handlers by operation."""

    def __init__(self, bandwidth: Bandwidth, sharing: Sharing, buckets: BucketTable) -> None:
        self._bandwidth = bandwidth
        self._sharing = sharing
        self._buckets = buckets
        self.handlers: dict[str, Handler] = {"kv-windows": self.windows, "kv-bandwidth": self.bandwidth}

    async def windows(self, call: Call) -> web.StreamResponse:
        await self._buckets.get(call.bucket)
        self._bandwidth.correct(WindowsBatch.decode(await call.body()), call.bucket, call.caller.access_key)
        return web.Response(status=204)

    async def bandwidth(self, call: Call) -> web.StreamResponse:
        """JSON in and out: `caps` by link (bytes a second, or "50Gbps"; null: none), `policy`, `weights` by tenant."""
        body = await call.body()
        if body:
            caps, policy, weights = _asked(body)
            if self._sharing.active and GATEWAY in caps:
                self._sharing.change_cap(caps.pop(GATEWAY))
            await self._bandwidth.change(caps, policy, weights)
        return web.json_response(self._shown())

    def _shown(self) -> dict[str, Any]:
        shared = self._bandwidth
        links = {
            link: {"cap_bytes_s": cap, "used_bytes_s": shared.used_bytes_s(link), "deliveries": shared.crossing(link)}
            for link, cap in sorted(shared.links.items())
        }
        return {
            "policy": shared.policy,
            "policies": list(POLICIES),
            "caps": shared.caps,
            "weights": shared.weights,
            "links": links,
        }


def _asked(body: bytes) -> tuple[dict[str, float | None], str | None, dict[str, float]]:
    """Raises RequestError that says what is wrong."""
    try:
        fields = json.loads(body)
        unknown = sorted(set(fields) - {"caps", "policy", "weights"})
        if unknown:
            raise RequestError(f"{unknown[0]!r} cannot be set: caps, policy and weights can")
        named, weights = dict(fields.get("caps") or {}), dict(fields.get("weights") or {})
        caps = {_link(link): None if rate is None else _cap(rate) for link, rate in named.items()}
        policy = fields.get("policy")
        if policy is not None and policy not in POLICIES:
            raise RequestError(f"there is no policy {policy!r}: there are {', '.join(POLICIES)}")
        found = {str(tenant): float(weight) for tenant, weight in weights.items()}
        for name in (*caps, *found):
            name.encode()  # a lone surrogate can be told to nobody
    except (ValueError, OverflowError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise RequestError(f"what is to be set cannot be read: {error}") from error
    if len(caps) > MAX_NAMES or len(found) > MAX_NAMES:
        raise RequestError(f"at most {MAX_NAMES} caps and weights can be set at once")
    if any(not 0 < weight < float("inf") for weight in found.values()):
        raise RequestError("a weight must be positive")
    return caps, policy, found


def _cap(rate: object) -> float:
    """0 pauses what crosses the link."""
    if isinstance(rate, int | float) and rate == 0:
        return 0.0
    if not isinstance(rate, int | float | str):
        raise TypeError(f"{rate!r} is no rate")
    return parse_rate(rate)


def _link(name: str) -> str:
    if name == GATEWAY or (name.startswith(("store:", "client:")) and len(name) <= 256):
        return name
    raise RequestError(f"{name[:40]!r} is no link: gateway, store:BUCKET and client:ADDRESS are")
