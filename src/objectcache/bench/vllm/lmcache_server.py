"""LMCache's multiprocess server beside vLLM, with an S3 bucket as its second level."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.guarding import free_ports

_START_TIMEOUT_S = 180.0
_SETTLE_TIMEOUT_S = 120.0
_HTTP_TIMEOUT_S = 30.0
_POLL_S = 0.05
_IO_THREADS = 4
"""Its default of 64 is for large machines."""
_QUIET = {"LMCACHE_TRACK_USAGE": "false", "DO_NOT_TRACK": "1", "LMCACHE_DISABLE_BANNER": "1"}
# Ends the server when whoever started this does, however that ends; and ends when the server does.
_GUARDIAN = """
"$@" & server=$!
while kill -0 $server 2>/dev/null; do
    read -r -t 1 _ || (($? > 128)) || { kill $server; wait; }
done
wait
"""


class LMCacheServer(AbstractContextManager["LMCacheServer"]):
    """`lmcache server` of the interpreter `python`. `endpoint` is HOST:PORT with the bucket in the host's name: it
    knows no other way to address buckets. Raises BenchmarkError."""

    def __init__(
        self, python: Path, endpoint: str, access_key: str, secret_key: str, *, memory_gib: int, directory: Path
    ) -> None:
        self.port = free_ports(3)
        self._http_port = self.port + 1
        second_level = {
            "type": "s3",
            "s3_endpoint": endpoint,
            "s3_region": "us-east-1",
            "s3_prefer_http2": False,
            "s3_num_io_threads": _IO_THREADS,
            "disable_tls": True,
            "aws_access_key_id": access_key,
            "aws_secret_access_key": secret_key,
        }
        command = [
            *(str(python.with_name("lmcache")), "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--http-port", str(self._http_port), "--prometheus-port", str(self.port + 2)),
            # Engines on a CPU copy between their blocks and memory that both share.
            *("--supported-transfer-mode", "engine_driven", "--shm-name", f"objectcache-bench-{self.port}"),
            *("--l1-size-gb", str(memory_gib), "--eviction-policy", "LRU", "--l2-adapter", json.dumps(second_level)),
        ]
        self._log = (directory / "lmcache.log").open("w+")
        self._process = subprocess.Popen(
            ["bash", "-c", _GUARDIAN, "guardian", *command],
            env=os.environ | _QUIET,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            self._wait_until_up()
        except BaseException:
            self.close()
            raise

    @property
    def transfer(self) -> dict[str, Any]:
        """vLLM's `kv_transfer_config` for it."""
        return {
            "kv_connector": "LMCacheMPConnector",
            "kv_connector_module_path": "lmcache.integration.vllm.lmcache_mp_connector",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": self.port},
        }

    def settle(self) -> None:
        """Wait until all that it was given is in the bucket, and empty its memory: it then loads from the bucket."""
        end_s = time.monotonic() + _SETTLE_TIMEOUT_S
        while time.monotonic() < end_s:
            manager = self._request("GET", "/status")["storage_manager"]
            storing, memory = manager["store_controller"], manager["l1_manager"]
            if not (storing["pending_keys_count"] or storing["in_flight_task_count"]):
                if not memory["total_object_count"]:
                    return
                self._request("POST", "/cache/clear")
            time.sleep(_POLL_S)
        raise BenchmarkError("LMCache's memory could not be emptied: what it loads would not come from the bucket")

    def _wait_until_up(self) -> None:
        end_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                self._request("GET", "/status")
            except (OSError, HTTPException):
                time.sleep(_POLL_S)
            else:
                return
        self._log.seek(0)
        raise BenchmarkError(f"lmcache server does not answer: {self._log.read()[-2000:]}")

    def _request(self, method: str, path: str) -> Mapping[str, Any]:
        connection = HTTPConnection("127.0.0.1", self._http_port, timeout=_HTTP_TIMEOUT_S)
        try:
            body = b"{}" if method == "POST" else None
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer: Mapping[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
