"""Deliveries of mixed size, one after the other: what a gateway's processes hold does not grow with their number.

`OBJECTCACHE_LEAK_DELIVERIES=1000 pytest tests/gateway/test_leaks.py` takes longer.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from objectcache.bench.machine import anonymous_bytes
from objectcache.cache import KVCache
from objectcache.keys import KeyChain, Namespace
from objectcache.testing.synthetic import LAYERWISE, check_delivery, flat_layout, new_namespace, prompt, store_parts
from objectcache.workers.process import MOST_WAITING
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, eventually
from tests.gateway.test_vanishing_clients import hanging_client

DELIVERIES = int(os.environ.get("OBJECTCACHE_LEAK_DELIVERIES", "150"))
WARM_DELIVERIES = 40
LAYOUT = flat_layout(8, 128 << 10)
CHUNKS = 16  # 16 MiB in all: more than sockets hold
GROWTH_BYTES = 64 << 20
POOLED_THREADS = 8
"""In the control process."""
OPTIONS = ({"target": "tcp"}, {"target": "http"})


def held(gateway: GatewayProcess) -> Counter[str]:
    """Descriptors by kind (files apart: segments stay open for a while), threads and processes."""
    count: Counter[str] = Counter()
    for role, pid in processes(gateway):
        count[f"{role}: threads"] += len(os.listdir(f"/proc/{pid}/task"))
        count[f"{role}s"] += 1
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                kind = os.readlink(descriptor)
                count[f"{role}: {kind.split('[')[0].partition(' ')[0]}"] += not kind.startswith("/") or "memfd" in kind
    return count


def settles(gateway: GatewayProcess, before: Counter[str]) -> None:
    """No more is held than before, soon: but for threads of pools, which start when they are needed and stay."""
    pooled = Counter({"worker: threads": MOST_WAITING * before["workers"], "control: threads": POOLED_THREADS})
    with suppress(AssertionError):
        eventually(lambda: not held(gateway) - before - pooled, "as before")
    assert not held(gateway) - before - pooled


def processes(gateway: GatewayProcess) -> list[tuple[str, int]]:
    return [("control", gateway.pid), *(("worker", pid) for pid in gateway.worker_pids)]


def anonymous(gateway: GatewayProcess) -> int:
    return sum(anonymous_bytes(pid) for _, pid in processes(gateway))


def deliver(caches: list[KVCache], namespace: Namespace, chain: KeyChain, times: int, chance: random.Random) -> None:
    for number in range(times):
        cache = caches[number % len(caches)]
        match = cache.match(namespace, chain[: chance.randint(1, CHUNKS)])
        with cache.retrieve(match, options=LAYERWISE) as retrieval:
            if number % 8:
                retrieval.wait(7)
            else:
                retrieval.wait(0)  # and is closed in the middle
        cache.release(match)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_nothing_grows_with_deliveries(own_gateway: StartGateway, workers: int) -> None:
    gateway = own_gateway(attach_s=2.0, workers=workers, workers_per_session=workers, spread_from_bytes=0)
    namespace, chance = new_namespace(LAYOUT), random.Random(1)
    chain = prompt(namespace, CHUNKS)
    with gateway.open(**OPTIONS[0]) as cache:
        store_parts(cache, namespace, chain[: CHUNKS // 2])
        store_parts(cache, namespace, chain)
        whole = cache.match(namespace, chain)
        with cache.retrieve(whole) as retrieval:
            check_delivery(retrieval, whole)
    eventually(lambda: not gateway.metric("objectcache_sessions"), "the session is over")
    before, pids = held(gateway), gateway.worker_pids
    with gateway.open(**OPTIONS[0]) as tcp, gateway.open(**OPTIONS[1]) as http:
        deliver([tcp, http], namespace, chain, WARM_DELIVERIES, chance)
        while_open, used_bytes = held(gateway), anonymous(gateway)
        deliver([tcp, http], namespace, chain, DELIVERIES, chance)
        for target in ("tcp", "http"):
            with hanging_client(gateway, whole, target, 30.0) as client:
                client.kill()
                assert client.wait(30) not in (0, None)
        settles(gateway, while_open)
        assert anonymous(gateway) - used_bytes < GROWTH_BYTES
    settles(gateway, before)
    assert gateway.worker_pids == pids
    assert "Traceback" not in gateway.log


def test_what_is_counted_would_tell(own_gateway: StartGateway) -> None:
    """A worker more, or a connection that stays, is seen."""
    gateway = own_gateway()
    before = held(gateway)
    assert before["workers"] == len(gateway.worker_pids) >= 1
    connection = gateway.connect()
    connection.connect()
    eventually(lambda: held(gateway) - before == Counter({"control: socket:": 1}), "one socket more")
    connection.close()
    eventually(lambda: not held(gateway) - before, "it is gone")
