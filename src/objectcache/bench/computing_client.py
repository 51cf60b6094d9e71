"""A client that has prefixes delivered when it is told to, and "computes" by waiting their windows.

`python -m objectcache.bench.computing_client` reads one JSON line (where the gateway is, and the chain), retrieves all
of it once and answers. Then a line is a request, {"chunks", "told_windows_s", "window_s"}, answered with {"bytes"} once
it has matched; the next line says when to begin, {"at_s"} on CLOCK_MONOTONIC, answered with `RequestTimes` once the
last layer is computed. It ends when standard input does.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from objectcache.bench.gateway import BUCKET
from objectcache.cache.base import Match, RetrieveOptions
from objectcache.client import ClientOptions, GatewayCache
from objectcache.keys import KeyChain, Namespace

DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """`began_s` is how much later than told it began; the others are counted from there: when the gateway had answered,
    when each unit landed, and when the last layer was computed."""

    began_s: float
    answered_s: float
    landed_s: tuple[float, ...]
    ended_s: float


class _Client:
    def __init__(self, job: dict[str, Any]) -> None:
        self._cache = GatewayCache(job["host"], job["port"], BUCKET, ClientOptions(**job["options"]))
        self._namespace = Namespace.from_json(job["namespace"].encode())
        self._chain = KeyChain(bytes.fromhex(job["chain"]))

    def match(self, chunks: int) -> Match:
        return self._cache.match(self._namespace, self._chain[:chunks])

    def warm(self) -> None:
        """Connected, and the destination's memory written once."""
        match = self.match(len(self._chain))
        with self._cache.retrieve(match, options=RetrieveOptions(deadline_s=DEADLINE_S)) as retrieval:
            for _ in retrieval:
                pass
        self._cache.release(match)

    def run(self, match: Match, told_windows_s: tuple[float, ...], window_s: float, at_s: float) -> RequestTimes:
        options = RetrieveOptions(windows_s=told_windows_s, deadline_s=DEADLINE_S)
        time.sleep(max(0.0, at_s - time.perf_counter()))
        start_s = time.perf_counter()
        landed_s = []
        with self._cache.retrieve(match, options=options) as retrieval:
            answered_s = time.perf_counter()
            computed_s = start_s
            for unit in retrieval:
                landed_s.append(unit.landed_s - start_s)
                # From when it could begin, not from when this thread woke: what it sleeps too long does not add up.
                computed_s = max(computed_s, unit.landed_s) + window_s * len(unit.layers)
                time.sleep(max(0.0, computed_s - time.perf_counter()))
            ended_s = time.perf_counter()
        self._cache.release(match)
        return RequestTimes(start_s - at_s, answered_s - start_s, tuple(landed_s), ended_s - start_s)


def main() -> None:
    client = _Client(json.loads(sys.stdin.readline()))
    client.warm()
    print("{}", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        match = client.match(job["chunks"])
        print(json.dumps({"bytes": match.payload_bytes}), flush=True)
        begin = json.loads(sys.stdin.readline())
        times = client.run(match, tuple(job["told_windows_s"]), job["window_s"], begin["at_s"])
        print(json.dumps(asdict(times)), flush=True)


if __name__ == "__main__":
    main()
