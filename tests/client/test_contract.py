"""The contract of caches, through a gateway, on every target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from objectcache.cache import KVCache
from objectcache.testing.caches import CacheContract
from tests.gateway.process import GatewayProcess, eventually


class GatewayContract(CacheContract):
    target: ClassVar[str]
    receiver: ClassVar[str] = "threads"

    @pytest.fixture(autouse=True)
    def use(self, gateway: GatewayProcess) -> Iterator[None]:
        self.gateway = gateway
        yield
        eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "deliveries end")
        eventually(lambda: gateway.metric("objectcache_sessions") == 0, "sessions end with their clients")

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return self.gateway.open(target=self.target, receiver=self.receiver, streams=3, buffer_bytes=buffer_bytes)

    def restart(self) -> None:
        self.gateway.restart()


class TestStripedThreads(GatewayContract):
    target = "tcp"


class TestStripedProcess(GatewayContract):
    target = "tcp"
    receiver = "process"


class TestResponse(GatewayContract):
    target = "http"


class TestSharedMemory(GatewayContract):
    target = "shm"
