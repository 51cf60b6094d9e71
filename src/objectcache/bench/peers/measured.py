"""One measured reading, and what the processors did for it."""

from __future__ import annotations

from dataclasses import dataclass

from objectcache.bench.stores.fetch import Fetch
from objectcache.bench.transfer import GB


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU seconds are of the processes that sent, and of those that received."""

    fetch: Fetch
    server_cpu_s: float
    client_cpu_s: float

    @property
    def server_cpu_s_per_gb(self) -> float:
        return self.server_cpu_s / (self.fetch.payload_bytes / GB)

    @property
    def client_cpu_s_per_gb(self) -> float:
        return self.client_cpu_s / (self.fetch.payload_bytes / GB)
