"""The gateway's control process: routes, health, and the life of everything it owns."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from objectcache.config import GatewayConfig
from objectcache.gateway.answers import typed_error
from objectcache.gateway.bandwidth import Bandwidth
from objectcache.gateway.bandwidth_routes import BandwidthRoutes
from objectcache.gateway.bucket_routes import BucketRoutes
from objectcache.gateway.buckets import BucketTable
from objectcache.gateway.call import Call, Handler
from objectcache.gateway.control import Ask, ControlRoute
from objectcache.gateway.draining import Drain
from objectcache.gateway.guard import Guard, open_keys
from objectcache.gateway.handoff import awaits_continue
from objectcache.gateway.kv import KVRoutes
from objectcache.gateway.kv_storing import StoringRoutes
from objectcache.gateway.listener import BACKLOG
from objectcache.gateway.merging import Merging
from objectcache.gateway.metrics import GatewayMetrics
from objectcache.gateway.object_reading import ReadingRoutes
from objectcache.gateway.objects import ObjectRoutes
from objectcache.gateway.routing import route, split_target
from objectcache.gateway.sessions import DataListener, SessionTable
from objectcache.gateway.shared_memory import SharedMemoryListener
from objectcache.gateway.sharing import Sharing
from objectcache.gateway.tls import tls_context
from objectcache.gateway.uploads import UploadRoutes
from objectcache.messages import MAX_MESSAGE_BYTES, Asked
from objectcache.s3 import error_body
from objectcache.s3.access import ALL_BUCKETS
from objectcache.transports.connecting import leave_unpaced, settle
from objectcache.workers.pool import WorkerPool

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.05
FAR_CALLS = 64
"""Requests that wait for a store that is far away at the same time: threads, which cost little while they wait."""


class Gateway:
    """One gateway. `start`, then `port` and `data_port` tell where it listens; `drain`, `close`.

    `keys_file` has the access keys (None: nobody signs); `keys_made` says that it is new.
    """

    def __init__(self, config: GatewayConfig) -> None:
        """Raises ConfigError."""
        self.config = config
        self.metrics = GatewayMetrics()
        self._buckets = BucketTable(config, self._forget_store)
        self._sessions = SessionTable(config.attach_s)
        self._pool = WorkerPool(
            config.workers,
            self._sessions.lost,
            lambda worker: self._bandwidth.greet(worker),
            on_granted=self._sessions.granted,
        )
        self._bandwidth = Bandwidth(config, self._pool)
        self._sharing = Sharing(config, self._bandwidth)
        self._merging = Merging(config, self._buckets, self._pool)
        self._drain = Drain()
        objects = ObjectRoutes(self._buckets, self._pool)
        kv = KVRoutes(
            self._buckets,
            self._pool,
            self._sessions,
            self.metrics,
            self._drain,
            self._bandwidth,
            self._endpoints,
            config,
        )
        asks: dict[int, Ask] = {
            Asked.MATCH_AND_RETRIEVE: Ask("kv-match-and-retrieve", kv.match_and_retrieve_in_session)
        }
        self._control = ControlRoute(self._buckets, self._sessions, self._drain, asks, self._count)
        routes = (
            kv,
            self._control,
            StoringRoutes(self._buckets, self._pool, self.metrics, self._drain),
            ReadingRoutes(self._buckets, self._pool),
            objects,
            UploadRoutes(self._buckets, self._pool, objects),
            BucketRoutes(self._buckets, self._pool, config.region),
            BandwidthRoutes(self._bandwidth, self._sharing, self._buckets),
            self._sharing,
        )
        self._handlers: dict[str, Handler] = {}
        for some in routes:
            self._handlers |= some.handlers
        found = open_keys(config)
        self.keys_file, self.keys_made = found.path, found.made
        self._guard = Guard(found.keys, config.anonymous)
        self._runner: web.ServerRunner | None = None
        self._http: asyncio.Server | None = None
        self._listener: DataListener | None = None
        self._shared: SharedMemoryListener | None = None
        self._ready = False
        self.port = 0

    def _forget_store(self, url: str) -> None:
        for worker in self._pool.workers:
            worker.tell("forget_store", store=url)

    @property
    def data_port(self) -> int:
        return self._listener.port if self._listener else 0

    @property
    def worker_pids(self) -> list[int]:
        return [worker.pid for worker in self._pool.workers if worker.pid is not None]

    async def start(self) -> None:
        """Raises ConfigError, CatalogError, StoreError; OSError for an address that cannot be had."""
        if self.config.store:
            threads = ThreadPoolExecutor(FAR_CALLS, thread_name_prefix="store")
            asyncio.get_running_loop().set_default_executor(threads)
        await self._buckets.open_all()
        await self._pool.start()
        await self._bandwidth.start()
        self._sharing.start()
        self._listener = DataListener(
            self._sessions,
            self.config.host,
            self.config.data_port,
            hello_s=self.config.attach_s,
            congestion_control=self.config.congestion_control,
        )
        self._listener.start()
        if self.config.shared_memory:
            self._shared = SharedMemoryListener(
                self._sessions, self.config.shared_memory_users, hello_s=self.config.attach_s
            )
            self._shared.start()
        # Without an aiohttp application: routing is ours, and so is when Expect is answered. Bodies are stored as they
        # are sent: a Content-Encoding is the client's affair.
        server = _Server(
            self._serve, request_factory=_request, access_log=None, handler_cancellation=False, auto_decompress=False
        )
        server.congestion_control = self.config.congestion_control
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        self._http = await asyncio.get_running_loop().create_server(
            server, self.config.host, self.config.port, ssl=tls_context(self.config), backlog=BACKLOG
        )
        for sock in self._http.sockets:
            leave_unpaced(sock)
        self.port = self._http.sockets[0].getsockname()[1]
        self._merging.start()
        self._ready = True

    async def drain(self) -> None:
        """Refuse new deliveries, and let those under way end: `drain_s` at most. May be cancelled."""
        self._ready = False
        self._drain.begin()
        await self._merging.stop()
        until = time.monotonic() + self.config.drain_s
        while any(worker.load for worker in self._pool.workers) and time.monotonic() < until:
            await asyncio.sleep(DRAIN_POLL_S)

    async def close(self) -> None:
        """End everything, also what is still under way."""
        self._ready = False
        await self._merging.stop()
        self._control.close()
        for listener in (self._listener, self._shared):
            if listener is not None:
                await listener.stop()
        await self._sharing.stop()
        await self._bandwidth.stop()
        await self._pool.stop()
        self._bandwidth.close()
        if self._http is not None:
            self._http.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.to_thread(self._buckets.close)

    def _endpoints(self, request: web.Request) -> tuple[str, int, str, int, str]:
        """Where this very gateway is reached: behind a load balancer, the client's own idea of it is another's."""
        host = self.config.advertise_host
        if not host:
            transport = request.transport
            name = transport.get_extra_info("sockname") if transport is not None else None
            host = name[0] if name else self.config.host
        data_port = self.data_port if self.config.serves_data_connections else 0
        return host, self.port, host, data_port, self._shared.name if self._shared is not None else ""

    # -- requests ---------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        started_s = time.perf_counter()
        trace = request.headers.get("x-kv-trace", "").encode("ascii", "replace").decode()  # it goes into a header again
        request_id = trace or secrets.token_hex(8)
        operation = "unknown"
        try:
            operation, response = await self._answer(request, request_id)
        except Exception as problem:  # noqa: BLE001 - whatever went wrong, the client gets an S3 error
            error = typed_error(problem, request)
            body = error_body(error, request.path, request_id)
            if request.method == "HEAD":
                body = b""
            response = web.Response(status=error.status, body=body, content_type="application/xml")
            if not request.content.at_eof() or awaits_continue(request):
                response.force_close()  # a body that nobody will read, or that a worker has read a part of
            log.info("%s %s: %s: %s", request.method, request.path, error.code, error)
        if not response.prepared:
            with suppress(RuntimeError):
                response.headers["x-amz-request-id"] = request_id
        took_s = time.perf_counter() - started_s
        asyncio.get_running_loop().call_soon(self._count, operation, response.status, took_s)  # the answer goes first
        return response

    def _count(self, operation: str, status: int, took_s: float) -> None:
        self.metrics.requests.labels(operation, status).inc()
        if status != HTTPStatus.SWITCHING_PROTOCOLS:  # that is how long a control stream was open
            self.metrics.request_seconds.labels(operation).observe(took_s)

    async def _answer(self, request: web.Request, request_id: str) -> tuple[str, web.StreamResponse]:
        """The operation's name, and its response."""
        path = request.raw_path.partition("?")[0]
        bucket, key = split_target(path, request.headers.get(hdrs.HOST, ""), self.config.domains)
        health = {"healthz": self._health, "readyz": self._readiness, "metrics": self._metrics}.get(bucket)
        if health is not None and request.method == "GET" and not key:
            return bucket, health()
        query = request.query
        asked = route(request.method, bucket, key, query.keys())
        caller = self._guard.admit(request)
        where = bucket or ALL_BUCKETS
        if asked.operation.needs is not None and not caller.may(where, asked.operation.needs):
            if bucket and asked.operation.name != "create-bucket":
                await self._buckets.get(bucket)  # S3 says so first when there is none
            caller.require(where, asked.operation.needs)
        call = Call(request, bucket, key, query, caller, request_id)
        return asked.operation.name, await self._handlers[asked.operation.name](call)

    def _health(self) -> web.Response:
        return web.Response(text="ok\n")

    def _readiness(self) -> web.Response:
        alive = all(worker.alive for worker in self._pool.workers)
        ready = self._ready and alive
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not ready\n")

    def _metrics(self) -> web.Response:
        self.metrics.sessions.set(len(self._sessions))
        self.metrics.show_bandwidth(self._bandwidth)
        for name, core in self._buckets.items():
            self.metrics.show(name, core)
        return web.Response(body=self.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})


class _Server(web.Server):
    """aiohttp's, which chooses each connection's congestion control."""

    congestion_control = ""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        settle(transport.get_extra_info("socket"), self.congestion_control)


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.Request:
    """aiohttp's own kind, without an application."""
    loop = asyncio.get_running_loop()
    return web.Request(message, payload, protocol, writer, task, loop, client_max_size=MAX_MESSAGE_BYTES)
