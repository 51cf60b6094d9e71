"""`GET /bucket?kv-sent&trace=ID`: when each layer of deliveries with that trace id was sent. JSON."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from aiohttp import web

from objectcache.errors import InvalidArgumentError
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call
from objectcache.gateway.running import Running
from objectcache.transports.sent_times import LayerTimes, merged

KEPT = 256
"""Deliveries, the latest that named a trace."""


class _Sent(NamedTuple):
    """Not the delivery itself, whose plan may be large."""

    bucket: str
    access_key: str
    trace: str
    shown: dict[str, object]


class SentTimesRoute:
    """Of deliveries that were sent to their end. An access key sees its own."""

    def __init__(self, buckets: BucketTable) -> None:
        self._buckets = buckets
        self._kept: deque[_Sent] = deque(maxlen=KEPT)

    def keep(self, bucket: str, running: Running, layers: Iterable[LayerTimes]) -> None:
        """`layers` as carriers tell them: each of what it sent."""
        descriptor = running.descriptor
        if descriptor.trace:
            shown = {"delivery": descriptor.delivery, "epoch": descriptor.epoch, "layers": merged(layers)}
            self._kept.append(_Sent(bucket, running.tenant, descriptor.trace, shown))

    async def show(self, call: Call) -> web.StreamResponse:
        """`layers` are (layer, first, last) in seconds of a clock that says `now_s` now: the gateway's host's."""
        await self._buckets.get(call.bucket)
        trace = call.query.get("trace", "")
        if not trace:
            raise InvalidArgumentError("kv-sent needs the trace id that it is about: ?kv-sent&trace=ID")
        asked = (call.bucket, call.caller.access_key, trace)
        deliveries = [sent.shown for sent in self._kept if sent[:3] == asked]
        return web.json_response({"now_s": time.monotonic(), "deliveries": deliveries})
