"""The contract of caches, with NIXL."""

from __future__ import annotations

from objectcache.testing.caches import CacheContract
from tests.client.test_contract import GatewayContract


class TestNixl(GatewayContract, CacheContract):
    target = "nixl"
