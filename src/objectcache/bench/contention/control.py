"""What the benchmark changes at a running gateway."""

from __future__ import annotations

from objectcache.bench.gateway import BenchGateway


def set_policy(gateway: BenchGateway, policy: str) -> None:
    pass


def set_cap(gateway: BenchGateway, bytes_s: float) -> None:
    pass
