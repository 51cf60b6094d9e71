"""A client that has one prefix delivered over and over, in a process of its own.

`python -m objectcache.bench.delivery_load` reads one JSON line, retrieves the prefix once and prints {"bytes"}; then it
answers each {"run": true} when a delivery is under way, each {"run": false} with {"deliveries", "seconds"} of the time
between. It ends when standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from objectcache.bench.gateway import BUCKET
from objectcache.client import ClientOptions, GatewayCache
from objectcache.keys import KeyChain, Namespace

_TIMEOUT_S = 30.0


class _Load:
    def __init__(self, job: dict[str, Any]) -> None:
        options = ClientOptions(**job["options"])
        self._cache = GatewayCache(job["host"], job["port"], BUCKET, options)
        self._namespace = Namespace.from_json(job["namespace"].encode())
        self._chain = KeyChain(bytes.fromhex(job["chain"]))
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._deliveries = 0
        self._failure = ""
        self._thread: threading.Thread | None = None
        self._since_s = 0.0

    def deliver(self) -> int:
        """Bytes of one delivery."""
        match = self._cache.match(self._namespace, self._chain)
        with self._cache.retrieve(match) as retrieval:
            retrieval.wait(0)
            self._begun.set()
            retrieval.wait(self._namespace.layout.shard(0, 0).layers[-1])
        self._cache.release(match)
        return match.payload_bytes

    def start(self) -> None:
        self._stop.clear()
        self._begun.clear()
        self._deliveries, self._since_s = 0, time.perf_counter()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not self._begun.wait(_TIMEOUT_S):
            raise SystemExit(self._failure or "a first layer took too long")

    def stop(self) -> dict[str, float]:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        if self._failure:
            raise SystemExit(self._failure)
        return {"deliveries": self._deliveries, "seconds": time.perf_counter() - self._since_s}

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.deliver()
                self._deliveries += 1
        except Exception as error:  # noqa: BLE001 - said by the main thread
            self._failure = repr(error)


def main() -> None:
    load = _Load(json.loads(sys.stdin.readline()))
    print(json.dumps({"bytes": load.deliver()}), flush=True)
    for line in sys.stdin:
        if json.loads(line)["run"]:
            load.start()
            print(json.dumps({"started": True}), flush=True)
        else:
            print(json.dumps(load.stop()), flush=True)


if __name__ == "__main__":
    main()
