"""The contract of caches, through a gateway, on every target."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from typing import ClassVar

import pytest

from objectcache.cache import KVCache
from objectcache.testing.cache_deliveries import DeliveryContract
from objectcache.testing.cache_lives import LifeContract
from objectcache.testing.cache_matching import MatchingContract
from objectcache.testing.cache_one_trip import OneTripContract
from objectcache.testing.caches import CacheContract
from tests.gateway.process import GatewayProcess, eventually


class GatewayContract(ABC):
    target: ClassVar[str]
    receiver: ClassVar[str] = "threads"
    streams: ClassVar[int] = 3

    @pytest.fixture(autouse=True)
    def use(self, gateway: GatewayProcess) -> Iterator[None]:
        self.gateway = gateway
        yield
        eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "deliveries end")
        eventually(lambda: gateway.metric("objectcache_sessions") == 0, "sessions end with their clients")

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return self.gateway.open(
            target=self.target, receiver=self.receiver, streams=self.streams, buffer_bytes=buffer_bytes
        )

    def restart(self) -> None:
        self.gateway.restart()


class TestStripedThreads(GatewayContract, CacheContract):
    target = "tcp"


class TestStripedProcess(GatewayContract, DeliveryContract, OneTripContract, LifeContract):
    """Each test starts a process: only what is delivered, and what is odd about it. The rest knows no receivers."""

    target = "tcp"
    receiver = "process"
    test_layers_of_several_shards = MatchingContract.test_shards_of_pipeline_stages_have_layers_of_their_own
    test_layers_of_several_groups = MatchingContract.test_groups_match_by_rules_and_chunks_of_their_own

    @pytest.fixture
    def cache(self) -> Iterator[KVCache]:
        with self.open_cache() as cache:
            yield cache


class TestResponse(GatewayContract, CacheContract):
    target = "http"


class TestSharedMemory(GatewayContract, CacheContract):
    target = "shm"
