"""A client that keeps a gateway's control process busy with listings, in a process of its own.

`python -m objectcache.bench.listing_load` reads one JSON line (see `_Load`),
stores that many small objects, prints {"objects"}, and then answers each {"run": true} when every connection has had a
first listing, each {"run": false} with {"requests", "seconds"} of the time between. It ends when standard input does.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from typing import Any

from objectcache.client.endpoint import Endpoint
from objectcache.client.responses import answer
from objectcache.s3 import Credentials

_OBJECT_BYTES = 64
_TIMEOUT_S = 30.0


class RefusedError(Exception):
    """The gateway answered, but not with what was asked for."""


class _Load:
    def __init__(self, job: dict[str, Any]) -> None:
        self._bucket = job["bucket"]
        self._endpoint = Endpoint(
            job["host"], job["port"], credentials=Credentials(job["access_key"], job["secret_key"])
        )
        self._connections = [self._endpoint.connect(_TIMEOUT_S) for _ in range(job["connections"])]
        self._stop = threading.Event()
        self._requests = [0] * len(self._connections)
        self._threads: list[threading.Thread] = []
        self._since_s = 0.0
        self._failure = ""

    def store(self, count: int) -> None:
        connection = self._connections[0]
        for number in range(count):
            self._ask(connection, "PUT", f"/{self._bucket}/listed-{number:06d}", bytes(_OBJECT_BYTES))

    def start(self) -> None:
        """Return when every connection has been served once."""
        self._stop.clear()
        first = threading.Barrier(len(self._connections) + 1)
        self._threads = [
            threading.Thread(target=self._run, args=(index, first), daemon=True)
            for index in range(len(self._connections))
        ]
        for thread in self._threads:
            thread.start()
        try:
            first.wait(_TIMEOUT_S)
        except threading.BrokenBarrierError:
            raise SystemExit(self._failure or "a first listing took too long") from None
        self._since_s = time.perf_counter()

    def stop(self) -> dict[str, float]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failure:
            raise SystemExit(self._failure)
        return {"requests": sum(self._requests), "seconds": time.perf_counter() - self._since_s}

    def _run(self, index: int, first: threading.Barrier) -> None:
        try:
            self._list(index)
            first.wait()
            self._requests[index] = 0
            while not self._stop.is_set():
                self._list(index)
                self._requests[index] += 1
        except (OSError, http.client.HTTPException, RefusedError) as error:
            self._failure = repr(error)
            first.abort()

    def _list(self, index: int) -> None:
        connection = self._connections[index]
        self._ask(connection, "GET", f"/{self._bucket}?list-type=2", b"")

    def _ask(self, connection: http.client.HTTPConnection, method: str, target: str, body: bytes) -> None:
        self._endpoint.send(connection, method, target, body)
        response = answer(connection, method)
        answered = response.read()
        if response.status != 200:
            raise RefusedError(f"the gateway answered {response.status}: {answered[:500]!r}")


def main() -> None:
    job = json.loads(sys.stdin.readline())
    load = _Load(job)
    load.store(job["objects"])
    print(json.dumps({"objects": job["objects"]}), flush=True)
    for line in sys.stdin:
        if json.loads(line)["run"]:
            load.start()
            print(json.dumps({"started": True}), flush=True)
        else:
            print(json.dumps(load.stop()), flush=True)


if __name__ == "__main__":
    main()
