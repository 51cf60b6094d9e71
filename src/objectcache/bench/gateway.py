"""A gateway in a process of its own, as users run it."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType

from objectcache.bench.children import JsonChild
from objectcache.bench.machine import anonymous_bytes, cpu_s
from objectcache.cache.directory import OBJECTS
from objectcache.client.endpoint import Endpoint
from objectcache.client.http import GatewayHttp
from objectcache.config import DEFAULT_KEYS_FILE
from objectcache.cores import only_on
from objectcache.s3 import AccessKeys
from objectcache.stores import FileStore

BUCKET = "bench"
_ADMIN_TIMEOUT_S = 10.0
_ENDED_S = 1.0
_POLL_S = 0.01


class BenchGateway(AbstractContextManager["BenchGateway"]):
    """`objectcache serve` over `data`, on loopback, with its own defaults. Raises BenchmarkError when it fails.

    `settings` are further ones of its configuration file, texts all of them; `environment` is added to ours. With
    `cores` it runs on these only.
    """

    def __init__(
        self,
        data: Path,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        cores: Collection[int] | None = None,
    ) -> None:
        self.data = data
        data.mkdir(parents=True, exist_ok=True)
        config = data / "gateway.toml"
        # JSON's strings are TOML's too.
        config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in (settings or {}).items()))
        with nullcontext() if cores is None else only_on(cores):
            self._child = JsonChild(
                [
                    *("objectcache", "serve", "--config", str(config), "--data", str(data)),
                    *("--port", "0", "--bucket", BUCKET, "--ready-json"),
                ],
                environment=environment,
            )
        try:
            ready = self._child.read()
        except BaseException:
            self._child.close()
            raise
        self.host: str = ready["host"]
        self.port: int = ready["port"]
        self.worker_pids: list[int] = ready["worker_pids"]
        self.credentials = AccessKeys.load(data / DEFAULT_KEYS_FILE).credentials()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.host, self.port, credentials=self.credentials)

    @property
    def control_pid(self) -> int:
        return self._child.pid

    def worker_cpu_s(self) -> float:
        """CPU seconds of all data workers so far."""
        return sum(map(cpu_s, self.worker_pids))

    def anonymous_bytes(self) -> dict[str, int]:
        """By process: "control", "worker 0", …"""
        workers = {f"worker {index}": anonymous_bytes(pid) for index, pid in enumerate(self.worker_pids)}
        return {"control": anonymous_bytes(self.control_pid)} | workers

    def set_bandwidth(self, gbps: float) -> None:
        """Cap what it delivers from now on; 0: no cap. Raises ObjectCacheError."""
        cap = gbps * 1e9 / 8 if gbps else None
        http = GatewayHttp(self.endpoint, timeout_s=_ADMIN_TIMEOUT_S)
        try:
            http.request("POST", "/?kv-bandwidth", json.dumps({"caps": {"gateway": cap}}).encode())
        finally:
            http.close()

    def sent_s(self, trace: str) -> dict[int, float]:
        """When the last of each layer was sent, of the delivery with that trace id: seconds of this host's clock. Empty
        where it has not ended within a moment. Raises ObjectCacheError."""
        http = GatewayHttp(self.endpoint, timeout_s=_ADMIN_TIMEOUT_S)
        try:
            until_s = time.monotonic() + _ENDED_S
            while True:
                shown = json.loads(http.request("GET", f"/{BUCKET}?kv-sent&trace={trace}"))
                if shown["deliveries"] or time.monotonic() > until_s:
                    break
                time.sleep(_POLL_S)
        finally:
            http.close()
        return {layer: last_s for sent in shown["deliveries"] for layer, _, last_s in sent["layers"]}

    def open_store(self) -> FileStore:
        """The bucket's objects as they lie on disk."""
        return FileStore(self.data / BUCKET / OBJECTS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()
