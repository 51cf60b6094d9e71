"""What the benchmark changes at a running gateway."""

from __future__ import annotations

import json

from objectcache.bench.gateway import BenchGateway
from objectcache.client.http import GatewayHttp
from objectcache.gateway.running import GATEWAY

BOUNDLESS_BYTES_S = 1e12
"""As good as no cap. Without any the gateway would end its rates process, and start another with the next cap."""
_TIMEOUT_S = 10.0


class Control:
    """Policy and cap of `gateway`, changed by its administrator's requests."""

    def __init__(self, gateway: BenchGateway) -> None:
        self._http = GatewayHttp(gateway.endpoint, timeout_s=_TIMEOUT_S)

    def set(self, policy: str, cap_bytes_s: float) -> None:
        """`cap_bytes_s` inf: none. Raises ObjectCacheError."""
        asked = {"policy": policy, "caps": {GATEWAY: min(cap_bytes_s, BOUNDLESS_BYTES_S)}}
        self._http.request("POST", "/?kv-bandwidth", json.dumps(asked).encode())

    def close(self) -> None:
        self._http.close()
