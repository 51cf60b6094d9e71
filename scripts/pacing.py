"""How exactly deliveries keep their rates, seen in the receiver's memory: the tables of docs/benchmarks/pacing.md.

`python scripts/pacing.py rates|change|cost [--targets tcp,http,shm] [--rates 0.1,0.5] [--busy] [--json FILE]`, from the
repository's root, with `src` and the root itself on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.gateway.arrivals import Arrivals, make, set_caps, store_prefix
from tests.gateway.process import BUCKET, GatewayProcess

MIB = 1 << 20
SMALL_OBJECTS = 2000
LISTERS = 2


@contextmanager
def listed(gateway: GatewayProcess) -> Iterator[None]:
    """The control process is busy: clients list a bucket all the time."""
    for number in range(SMALL_OBJECTS):
        gateway.ask("PUT", f"/{BUCKET}/listed-{number:05d}", b"x")
    lister = multiprocessing.get_context("spawn").Process(target=_list, args=(gateway.port,), daemon=True)
    lister.start()
    try:
        yield
    finally:
        lister.kill()
        lister.join()


def _list(port: int) -> None:
    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while True:
            connection.request("GET", f"/{BUCKET}?list-type=2")
            connection.getresponse().read()

    for _ in range(LISTERS - 1):
        threading.Thread(target=run, daemon=True).start()
    run()


def measure_rates(gateway: GatewayProcess, target: str, bytes_s: float) -> dict[str, Any]:
    """One delivery of a second: its 50 ms windows against the rate."""
    total_bytes = max(64 * MIB, min(512 * MIB, int(bytes_s))) // (16 * MIB) * (16 * MIB)
    match = store_prefix(gateway, total_bytes, seed=time.monotonic_ns() % 10**9)
    set_caps(gateway, gateway=bytes_s)
    time.sleep(0.5)
    with gateway.open(target=target, buffer_bytes=total_bytes + 16 * MIB) as cache:
        arrivals = Arrivals(cache, match)
        arrivals.wait()
        arrivals.close()
    off = sorted(rate / bytes_s - 1 for rate in arrivals.rates())
    ends = quantiles(off, n=10) if len(off) > 1 else off * 9
    return {
        "windows": len(off),
        "median": median(off),
        "p10": ends[0],
        "p90": ends[-1],
        "least": off[0],
        "most": off[-1],
        "within_5_percent": sum(abs(one) <= 0.05 for one in off) / len(off),
    }


def measure_change(gateway: GatewayProcess, target: str, times: int = 10) -> dict[str, Any]:
    """From the request that sets a rate to where arrivals turn: milliseconds."""
    slow, fast, look_s = 0.5e8, 2e8, 0.06
    total_bytes = 32 * MIB
    match = store_prefix(gateway, total_bytes, seed=time.monotonic_ns() % 10**9)
    found: dict[str, list[float]] = {"up": [], "down": []}
    for number in range(times):
        way = "up" if number % 2 else "down"
        before, after = (slow, fast) if way == "up" else (fast, slow)
        set_caps(gateway, gateway=before)
        time.sleep(0.3)
        with gateway.open(target=target, buffer_bytes=total_bytes + 16 * MIB) as cache:
            arrivals = Arrivals(cache, match)
            time.sleep(0.05)
            asked_s = time.monotonic()
            set_caps(gateway, gateway=after)
            answered_s = time.monotonic()
            time.sleep(0.1)
            arrivals.close()
        came = arrivals.at(asked_s + look_s) - arrivals.at(asked_s)
        found[way].append(1e3 * (after * look_s - came) / (after - before))
        found.setdefault("answered", []).append(1e3 * (answered_s - asked_s))
    return {way: {"median_ms": median(some), "most_ms": max(some)} for way, some in found.items()}


def measure_cost(gateway: GatewayProcess, target: str, times: int = 8) -> dict[str, Any]:
    """Seconds of a delivery of 256 MiB: uncapped, and under a cap that never binds, in turns."""
    total_bytes = 256 * MIB
    match = store_prefix(gateway, total_bytes, seed=time.monotonic_ns() % 10**9)
    took: dict[str, list[float]] = {"uncapped": [], "loose": []}
    with gateway.open(target=target, buffer_bytes=total_bytes + 16 * MIB) as cache:
        for number in range(2 * times):
            kind = "loose" if number % 2 else "uncapped"
            set_caps(gateway, gateway=1e12 if kind == "loose" else None)
            time.sleep(0.4)
            began_s = time.perf_counter()
            with cache.retrieve(match) as retrieval:
                for _ in retrieval:
                    pass
            took[kind].append(time.perf_counter() - began_s)
    return {kind: {"median_gb_s": total_bytes / median(some) / 1e9, "best_gb_s": total_bytes / min(some) / 1e9}
            for kind, some in took.items()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("rates", "change", "cost"))
    parser.add_argument("--targets", default="tcp,http,shm")
    parser.add_argument("--rates", default="0.1,0.2,0.5", help="GB/s")
    parser.add_argument("--busy", action="store_true", help="while clients list the bucket all the time")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        gateway = make(Path(folder))
        try:
            with listed(gateway) if asked.busy else nullcontext():
                for target in asked.targets.split(","):
                    for rate in asked.rates.split(",") if asked.what == "rates" else ("",):
                        match asked.what:
                            case "rates":
                                found = measure_rates(gateway, target, float(rate) * 1e9)
                            case "change":
                                found = measure_change(gateway, target)
                            case _:
                                found = measure_cost(gateway, target)
                        row = {"what": asked.what, "target": target, "rate_gb_s": rate, "busy": asked.busy} | found
                        print(json.dumps(row), flush=True)
                        results.append(row)
        finally:
            gateway.stop()
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
