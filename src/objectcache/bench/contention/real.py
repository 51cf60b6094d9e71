"""Requests through a real gateway: a client process for each, bytes and cap scaled down, windows as they are."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from objectcache.bench.children import JsonChild
from objectcache.bench.computing_client import DEADLINE_S, RequestTimes
from objectcache.bench.contention.control import Control
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BenchGateway
from objectcache.bench.machine import cpu_s
from objectcache.bench.retrieve.workload import PART, bench_namespace, random_chain
from objectcache.bench.shapes import LLAMA_31_8B, ModelShape
from objectcache.cache.base import KVCache
from objectcache.client import ClientOptions, GatewayCache
from objectcache.errors import ConfigError
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.simulation.mixes import BYTES_PER_TOKEN, LAYERS, MixRequest

_LEAD_S = 0.05
"""From telling the clients to the first arrival: all have read their line by then."""
_STORING_BYTES = 64 << 20
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class RealOutcome:
    """`added_s` is the added TTFT: how late the latest unit landed for an engine that only waits for its windows.
    `landed_s` are counted from the request, `ended_s` is its measured TTFT, `payload_bytes` as scaled."""

    added_s: float
    ended_s: float
    answered_s: float
    began_s: float
    landed_s: tuple[float, ...]
    payload_bytes: int


def added_s(landed_s: Sequence[float], window_s: float) -> float:
    """When the prefill ends, beyond the sum of its windows: of one layer a unit, that all land late by as much."""
    return max(landed - layer * window_s for layer, landed in enumerate(landed_s))


def prefix_tokens(request: MixRequest) -> int:
    """What it loads, of its context."""
    return int(request.context_tokens * request.hit)


def scaled(shape: ModelShape, scale: int) -> ModelShape:
    """With slices of a `scale`-th. Raises ConfigError where its heads are not divisible so."""
    if scale < 1 or shape.head_dim % scale:
        raise ConfigError(f"the scale must divide {shape.head_dim}, the values of a head, got {scale}")
    return replace(shape, key=f"{shape.key}/{scale}", name=f"{shape.name} / {scale}", head_dim=shape.head_dim // scale)


def _store(cache: KVCache, namespace: Namespace, chain: KeyChain, stops: Sequence[int], seed: int) -> None:
    """Random bytes as the chain's KV, in segments that end at `stops` (chunks)."""
    random = np.random.default_rng(seed)
    for first, stop in itertools.pairwise([0, *stops]):
        upload = cache.store(namespace, chain, PART, first=first, stop=stop)
        if upload is None:
            raise BenchmarkError("chunks of a fresh store are said to be there already")
        with upload:
            for slice_bytes in upload.header.slice_bytes:
                upload.write_layer(random.bytes((stop - first) * slice_bytes))
            cache.commit([upload.finish()])


class RealSystem(AbstractContextManager["RealSystem"]):
    """A gateway with one chain stored, and `clients` processes that are connected to it. Raises ObjectCacheError.

    Every request is for one of `prefixes` (tokens), all of which begin as one chain does. It is stored in a segment for
    each: whole pieces are read and verified, as they are of unscaled slices. `step` is called after each process that
    is ready.
    """

    def __init__(
        self,
        *,
        clients: int,
        prefixes: Collection[int],
        scale: int,
        target: str = "tcp",
        streams: int = 1,
        verify: str = "all",
        seed: int = 1,
        data: Path | None = None,
        step: Callable[[], None] = lambda: None,
    ) -> None:
        self.scale = scale
        self._longest_tokens = max(prefixes)
        self.shape = scaled(LLAMA_31_8B, scale)
        self._stack = ExitStack()
        try:
            directory = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=data))
            )
            self.gateway = self._stack.enter_context(
                BenchGateway(directory, {"merge_bytes_s": "0", "bandwidth": "1TB/s"})
            )
            namespace = bench_namespace(self.shape, seed)
            chain = random_chain(namespace, self.shape.chunks(self._longest_tokens), seed)
            shard = self.shape.layout.shard(0, 0)
            longest = PartShape(shard.layers, shard.slice_bytes, len(chain))
            options: dict[str, Any] = {
                "access_key": self.gateway.credentials.access_key,
                "secret_key": self.gateway.credentials.secret_key,
                "target": target,
                "streams": streams,
                "verify": verify,
                "buffer_bytes": max(_STORING_BYTES, DeliveryGeometry((longest,), layers_per_unit=1).total_bytes),
            }
            with GatewayCache(self.gateway.host, self.gateway.port, "bench", ClientOptions(**options)) as cache:
                _store(cache, namespace, chain, sorted(map(self.shape.chunks, prefixes)), seed)
            job = {
                "host": self.gateway.host,
                "port": self.gateway.port,
                "options": options,
                "namespace": namespace.to_json().decode(),
                "chain": b"".join(chain).hex(),
            }
            self.control = self._stack.enter_context(closing(Control(self.gateway)))
            self._clients: list[JsonChild] = []
            for _ in range(clients):
                client = self._stack.enter_context(JsonChild(["objectcache.bench.computing_client"]))
                client.tell(job)
                self._clients.append(client)
            for client in self._clients:
                client.read(_START_TIMEOUT_S)
                step()
        except BaseException:
            self._stack.close()
            raise

    @cached_property
    def uncapped_bytes_s(self) -> float:
        """Payload a second of all clients at once, when nothing holds them back: the median of three times."""
        layer_bytes = self._longest_tokens * BYTES_PER_TOKEN // LAYERS
        whole = MixRequest(0.0, self._longest_tokens, 1.0, LAYERS, layer_bytes, window_s=0.0)
        rates = []
        for _ in range(3):
            outcomes = self.run([whole] * len(self._clients), policy="equal", cap_bytes_s=inf)
            rates.append(sum(o.payload_bytes for o in outcomes) / max(o.ended_s for o in outcomes))
        return statistics.median(rates)

    def run(
        self,
        requests: Sequence[MixRequest],
        *,
        policy: str,
        cap_bytes_s: float,
        told_windows_s: Sequence[float] | None = None,
    ) -> list[RealOutcome]:
        """All of `requests`, each by a client of its own. `cap_bytes_s` is unscaled, inf for none.

        `told_windows_s` are what clients say of their windows, where that is not the truth: one for each request, for
        all of its layers. Raises BenchmarkError, also when something else than the whole prefix matched.
        """
        if len(requests) > len(self._clients):
            raise BenchmarkError(f"{len(requests)} requests need as many clients, there are {len(self._clients)}")
        self.control.set(policy, cap_bytes_s / self.scale)
        told_s = [request.window_s for request in requests] if told_windows_s is None else told_windows_s
        clients = self._clients[: len(requests)]
        for client, request, window_s in zip(clients, requests, told_s, strict=True):
            chunks = self.shape.chunks(prefix_tokens(request))
            told = [window_s] * request.layers
            client.tell({"chunks": chunks, "told_windows_s": told, "window_s": request.window_s})
        sizes: list[int] = [client.read()["bytes"] for client in clients]
        for size, request in zip(sizes, requests, strict=True):
            if size * self.scale != request.total_bytes:
                raise BenchmarkError(f"{size} bytes matched of {prefix_tokens(request)} tokens")
        zero_s = time.perf_counter() + _LEAD_S
        for client, request in zip(clients, requests, strict=True):
            client.tell({"at_s": zero_s + request.arrival_s})
        timed = [RequestTimes(**client.read(2 * DEADLINE_S)) for client in clients]
        return [
            RealOutcome(
                added_s=added_s(times.landed_s, request.window_s),
                ended_s=times.ended_s,
                answered_s=times.answered_s,
                began_s=times.began_s,
                landed_s=tuple(times.landed_s),
                payload_bytes=size,
            )
            for times, request, size in zip(timed, requests, sizes, strict=True)
        ]

    @property
    def clients(self) -> int:
        return len(self._clients)

    def clients_cpu_s(self) -> float:
        """CPU seconds of all clients so far."""
        return sum(cpu_s(client.pid) for client in self._clients)

    def gateway_cpu_s(self) -> float:
        return self.gateway.worker_cpu_s() + cpu_s(self.gateway.control_pid)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
