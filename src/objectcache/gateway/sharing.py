"""A link that several gateways share: this one lends its bandwidth to others, or has its share from another."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import secrets
import time
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from objectcache.config import GatewayConfig
from objectcache.descriptor import FieldReader
from objectcache.errors import NotSupportedError, RequestError
from objectcache.gateway.bandwidth import Bandwidth
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.running import GATEWAY
from objectcache.s3 import Credentials, sign_headers
from objectcache.scheduling.shares import BorrowedShare, Share, ShareLender

log = logging.getLogger(__name__)

LONGEST_TTL_S = 60.0
ASK_S = 0.2
ANSWER_S = 0.5
"""How long an answer is waited for."""
DEMAND_S = 1.0
"""A gateway that has delivered anything within so long wants as much as there is."""
NOTICED = 0.001
"""A share that has changed by less stays as it is."""
MAX_RATE = 1e15


class Sharing:
    """Sets the cap of the gateway's own link, a few times a second. Where nothing is lent it does nothing."""

    def __init__(self, config: GatewayConfig, bandwidth: Bandwidth) -> None:
        self._bandwidth = bandwidth
        self._config = config
        self._cap = config.bandwidth or 0.0
        self._floor = self._cap * config.share
        self._name = secrets.token_hex(8)
        self._borrowed = BorrowedShare(self._floor)
        self._lender: ShareLender | None = None
        self._wanted_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self.handlers: dict[str, Handler] = {"kv-share": self.share}

    @property
    def active(self) -> bool:
        return bool(self._config.lend or self._config.bandwidth_from)

    def start(self) -> None:
        if self._config.lend:
            self._lender = ShareLender(self._cap, self._floor, self._cap * self._config.lend, time.monotonic())
        if self.active:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def share(self, call: Call) -> web.StreamResponse:
        """Another gateway asks for its share (JSON)."""
        if self._lender is None:
            raise NotSupportedError(
                "this gateway lends no bandwidth: its setting `lend` says how much it keeps for others"
            )
        try:
            fields = FieldReader(json.loads(await call.body()), "share", RequestError)
            name = fields.text("name", 64)
            floor, demand, held = (
                fields.number(f"{what}_bytes_s", 0, MAX_RATE) for what in ("floor", "demand", "held")
            )
            if not name:
                raise RequestError("share.name must not be empty")
            share = self._lender.ask(name, floor, demand, held, time.monotonic())
        except (ValueError, RecursionError) as error:
            raise RequestError(str(error)) from error
        return web.json_response({"bytes_s": share.bytes_s, "ttl_s": share.ttl_s})

    def change_cap(self, bytes_s: float | None) -> None:
        """The cap of the whole link is set at run time. Raises RequestError where that cannot be."""
        if self._lender is None or bytes_s is None:
            raise RequestError("the gateway's cap is a share of a link's: set it where it is lent, and to a rate")
        try:
            self._lender.change(bytes_s)
        except ValueError as error:
            raise RequestError(str(error)) from error
        self._cap = bytes_s

    async def _run(self) -> None:
        asking: asyncio.Task[None] | None = None
        while True:
            now_s = time.monotonic()
            if self._bandwidth.crossing(GATEWAY):
                self._wanted_s = now_s + DEMAND_S
            demand = self._cap if now_s < self._wanted_s else 0.0
            if self._lender is not None:
                await self._use(self._lender.own(demand, now_s))
            else:
                if asking is None or asking.done():
                    asking = asyncio.create_task(self._ask(demand, self._borrowed.bytes_s(now_s)))
                # Looked at again in a moment only: by then it must not have run out.
                await self._use(self._borrowed.bytes_s(now_s + 2 * ASK_S))
            await asyncio.sleep(ASK_S)

    async def _use(self, bytes_s: float) -> None:
        if abs(self._bandwidth.caps.get(GATEWAY, 0.0) - bytes_s) > NOTICED * bytes_s:
            try:
                await self._bandwidth.change({GATEWAY: bytes_s})
            except OSError:
                log.exception("the share of bandwidth cannot be changed")

    async def _ask(self, demand: float, held: float) -> None:
        asked_s = time.monotonic()
        body = {"name": self._name, "floor_bytes_s": self._floor, "demand_bytes_s": demand, "held_bytes_s": held}
        try:
            found = await asyncio.to_thread(_post, self._config.bandwidth_from, json.dumps(body).encode())
            share = Share(float(found["bytes_s"]), float(found["ttl_s"]))
            if not (0 <= share.bytes_s <= self._cap and 0 <= share.ttl_s <= LONGEST_TTL_S):
                raise ValueError(f"{share} is no share of {self._cap:g} bytes/s")
            self._borrowed.got(share, asked_s)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            log.warning("no share of bandwidth from %s: %s", self._config.bandwidth_from, error)


def _post(url: str, body: bytes) -> Any:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=ANSWER_S)
    target = "/?kv-share="
    try:
        key, secret = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        signed = sign_headers(Credentials(key, secret), "POST", parts.netloc, target, {}, payload=body) if key else {}
        connection.request("POST", target, body, signed)
        response = connection.getresponse()
        answered = response.read()
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}: {answered[:200]!r}")
        return json.loads(answered)
    finally:
        connection.close()
