"""What the benchmark changes at a running gateway."""

from __future__ import annotations

from objectcache.bench.gateway import BenchGateway


class Control:
    """Policy and cap of `gateway`, changed by its administrator's requests."""

    def __init__(self, gateway: BenchGateway) -> None:
        self._gateway = gateway

    def set(self, policy: str, cap_bytes_s: float) -> None:
        """`cap_bytes_s` inf: none."""
