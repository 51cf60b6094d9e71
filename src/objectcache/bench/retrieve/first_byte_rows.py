"""Time to first byte, on a machine that does nothing else and beside a delivery; signed, and not.

By a gateway of its own over data that is there, which admits requests that are not signed too: both kinds are asked in
turn, of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from typing import Any

from objectcache.bench.children import JsonChild
from objectcache.bench.gateway import BenchGateway
from objectcache.bench.result import Row, percentile, sample_row
from objectcache.bench.retrieve.first_byte import FirstByteClient
from objectcache.bench.retrieve.workload import StoredPrefix
from objectcache.layout import DeliveryGeometry, PartShape

FIRST_BYTE = "first byte"
FIRST_BYTE_STEPS = 3
_WARM_REQUESTS = 20


def first_byte_rows(
    gateway: BenchGateway, prefix: StoredPrefix, streams: int, requests: int, measured: Callable[[], None]
) -> list[Row]:
    """`requests` of each kind; `measured()` after each of FIRST_BYTE_STEPS. Raises ObjectCacheError.

    Rows are named "first byte", with what is special about them behind.
    """
    about = {"chunks": len(prefix.chain), "segments": len(prefix.headers)}
    with ExitStack() as stack:
        asked = stack.enter_context(BenchGateway(gateway.data, {"anonymous": "read"}))
        one = stack.enter_context(FirstByteClient(asked, prefix, 1))
        unsigned = stack.enter_context(FirstByteClient(asked, prefix, 1, signed=False))
        striped = stack.enter_context(FirstByteClient(asked, prefix, streams))
        # Each of another range of the same segments, which the gateway has to look up.
        ends = range(min(prefix.headers[0].num_chunks, prefix.headers[-1].num_chunks))
        ranges = [(first, len(prefix.chain) - short) for first, short in product(ends, ends)]
        one.measure()  # opens the segments
        rows = [_row("ranges not asked for before", [one.measure(*wanted) for wanted in ranges], streams=1, **about)]
        measured()
        ways = {
            "1 connection": one,
            "1 connection, not signed": unsigned,
            f"{streams} connections": striped,
        }
        for _ in range(_WARM_REQUESTS):
            for client in ways.values():
                client.measure()
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(requests):
            for name, client in ways.items():
                taken[name].append(client.measure())
        rows += [_row(name, seconds, **about) for name, seconds in taken.items()]
        measured()
        beside = stack.enter_context(_deliveries(asked, prefix, streams))
        beside.ask({"run": True})
        seconds = [one.measure() for _ in range(requests)]
        served = beside.ask({"run": False})
        delivered = served["deliveries"] / served["seconds"]
        rows.append(_row("1 connection, beside a delivery", seconds, deliveries_per_s=delivered, **about))
        measured()
        return rows


def first_byte_summary(rows: list[Row]) -> dict[str, float]:
    found = {row["name"]: row for row in rows}
    idle, beside = found["first byte, 1 connection"], found["first byte, 1 connection, beside a delivery"]
    return {
        "first_byte_ms": idle["p50"],
        "first_byte_p99_ms": idle["p99"],
        "first_byte_unsigned_ms": found["first byte, 1 connection, not signed"]["p50"],
        "first_byte_beside_ms": beside["p50"],
        "first_byte_beside_p99_ms": beside["p99"],
    }


def _row(name: str, seconds: list[float], **about: Any) -> Row:
    times_ms = [value * 1e3 for value in seconds]
    shares = {"p50": percentile(times_ms, 50), "p99": percentile(times_ms, 99)}
    return sample_row(f"{FIRST_BYTE}, {name}", "ms", times_ms, **shares, **about)


def _deliveries(gateway: BenchGateway, prefix: StoredPrefix, streams: int) -> JsonChild:
    """A client that gets all of the prefix again and again, once it is told to."""
    shard = prefix.namespace.layout.shard(0, 0)
    shape = PartShape(shard.layers, shard.slice_bytes, len(prefix.chain))
    child = JsonChild(["objectcache.bench.delivery_load"])
    options = {
        "access_key": gateway.credentials.access_key,
        "secret_key": gateway.credentials.secret_key,
        "target": "tcp",
        "streams": streams,
        "buffer_bytes": DeliveryGeometry((shape,), 1).total_bytes,
    }
    try:
        child.ask(
            {
                "host": gateway.host,
                "port": gateway.port,
                "options": options,
                "namespace": prefix.namespace.to_json().decode(),
                "chain": prefix.chain.data.hex(),
            }
        )
    except BaseException:
        child.close()
        raise
    return child
