"""Layerwise retrievals through the client, timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from objectcache.bench.gateway import BenchGateway
from objectcache.bench.machine import child_pids, cpu_s
from objectcache.bench.retrieve.workload import StoredPrefix
from objectcache.bench.transfer import Transfer
from objectcache.cache.base import RetrieveOptions
from objectcache.cache.retrieval import Retrieval
from objectcache.client import GatewayCache


@dataclass(frozen=True)
class LayerwiseClient:
    """`receiver_pids` are processes beside this one in which its data is received."""

    cache: GatewayCache
    gateway: BenchGateway
    prefix: StoredPrefix
    receiver_pids: frozenset[int] = frozenset()

    def warmed(self) -> LayerwiseClient:
        """Connected, with its memory written once, and what arrived checked against what was stored."""
        before = child_pids(os.getpid())
        self.retrieve(len(self.prefix.chain), self.prefix.check)
        started = child_pids(os.getpid()) - before
        return replace(self, receiver_pids=self.receiver_pids | started)

    def retrieve(
        self,
        chunks: int,
        arrived: Callable[[Retrieval], None] = lambda retrieval: None,
        landed: Callable[[], None] = lambda: None,
    ) -> Transfer:
        """The first `chunks` chunks. `landed()` is called after each layer; `arrived(retrieval)` last, untimed."""
        match = self.cache.match(self.prefix.namespace, self.prefix.chain[:chunks])
        sender_cpu_s, receiver_cpu_s = self.gateway.worker_cpu_s(), self._receiver_cpu_s()
        start_s = time.perf_counter()
        with self.cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1)) as retrieval:
            answered_s = time.perf_counter() - start_s
            landed_s = []
            for unit in retrieval:
                landed_s.append(unit.landed_s - start_s)
                landed()
            transfer = Transfer(
                started_s=start_s,
                seconds=max(landed_s),
                payload_bytes=match.payload_bytes,
                sender_cpu_s=self.gateway.worker_cpu_s() - sender_cpu_s,
                receiver_cpu_s=self._receiver_cpu_s() - receiver_cpu_s,
                answered_s=answered_s,
                landed_s=tuple(landed_s),
            )
            arrived(retrieval)
        self.cache.release(match)
        return transfer

    def _receiver_cpu_s(self) -> float:
        return time.process_time() + sum(map(cpu_s, self.receiver_pids))
