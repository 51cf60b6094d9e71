"""Everything at once: workers and gateways that die or stop at any moment while clients read, write and cancel.

Whatever happens, what lands is right, every call ends with a typed error or in time, and in the end all is as before.
OBJECTCACHE_CHAOS_S makes it last longer, OBJECTCACHE_CHAOS_SEED makes it another.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from objectcache.cache import KVCache, PartId, RetrieveOptions
from objectcache.client import GatewayCache
from objectcache.errors import ObjectCacheError
from objectcache.keys import KeyChain, Namespace
from objectcache.testing.synthetic import (
    check_layer,
    fill,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
)
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, eventually

LAYERS, CHUNKS = 6, 12
LAYOUT = flat_layout(LAYERS, 96 << 10)
TOTAL_BYTES = LAYERS * CHUNKS * 96 << 10
CHAOS_S = float(os.environ.get("OBJECTCACHE_CHAOS_S", "3"))
SEED = int(os.environ.get("OBJECTCACHE_CHAOS_SEED", "1"))
DEADLINE_S = 2.0
LONGEST_CALL_S = 20.0
TARGETS: list[dict[str, Any]] = [
    {"target": "shm"},
    {"target": "tcp"},
    {"target": "tcp", "receiver": "process"},
    {"target": "http"},
]


class Chaos:
    """Threads that use one cache until `over`, and count what came of it."""

    def __init__(self, cache: KVCache, namespace: Namespace) -> None:
        self.cache = cache
        self.namespace = namespace
        self.over = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[BaseException] = []
        self.stuck: list[str] = []
        self._begun: dict[int, float] = {}
        self._seeds = iter(range(1000, 1 << 20))
        self._threads: list[threading.Thread] = []

    def run(self, *workers: Callable[[random.Random], None]) -> None:
        for index, worker in enumerate(workers):
            self._threads.append(threading.Thread(target=self._repeat, args=(worker, random.Random(index))))
            self._threads[-1].start()

    def _repeat(self, worker: Callable[[random.Random], None], dice: random.Random) -> None:
        me = threading.get_ident()
        while not self.over.is_set():
            self._begun[me] = time.monotonic()
            try:
                worker(dice)
                self.outcomes["well"] += 1
            except ObjectCacheError as error:
                self.outcomes[type(error).__name__] += 1
                self.over.wait(0.02)
            except BaseException as wrong:  # noqa: BLE001 - the test fails with it
                self.wrong.append(wrong)
                break
        del self._begun[me]

    def look(self) -> None:
        """Write down where calls are that take too long."""
        for thread, begin_s in list(self._begun.items()):
            frame = sys._current_frames().get(thread)
            if frame is not None and time.monotonic() - begin_s > LONGEST_CALL_S:
                self.stuck.append("".join(traceback.format_stack(frame)))

    def join(self) -> None:
        self.over.set()
        until_s = time.monotonic() + LONGEST_CALL_S + 5.0
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < until_s:
            time.sleep(0.05)
            self.look()

    def chain(self, dice: random.Random) -> KeyChain:
        return prompt(self.namespace, CHUNKS, seed=dice.randrange(3))

    def read(self, dice: random.Random) -> None:
        match = self.cache.match(self.namespace, self.chain(dice))
        if not match.tokens:
            return
        options = RetrieveOptions(deadline_s=DEADLINE_S, layers_per_unit=dice.choice([0, 1, 3]))
        with self.cache.retrieve(match, options=options) as retrieval:
            for layer in range(LAYERS):
                retrieval.wait(layer)
                check_layer(retrieval, match.parts, layer)

    def cancel(self, dice: random.Random) -> None:
        match = self.cache.match(self.namespace, self.chain(dice))
        if match.tokens:
            with self.cache.retrieve(
                match, options=RetrieveOptions(layers_per_unit=1, deadline_s=DEADLINE_S)
            ) as retrieval:
                retrieval.wait(dice.randrange(LAYERS))
            self.cache.release(match)

    def write(self, dice: random.Random) -> None:
        chain = prompt(self.namespace, 4, seed=next(self._seeds))
        upload = self.cache.store(self.namespace, chain, PartId(0, 0))
        assert upload is not None
        with upload:
            self.cache.commit([fill(upload)])
        retrieve_and_check(self.cache, self.namespace, chain)


def wreck(gateway: GatewayProcess, dice: random.Random) -> None:
    """One misfortune."""
    workers = gateway.worker_pids
    match dice.randrange(4):
        case 0:
            gateway.kill()
            gateway.start()
        case 1 if workers:
            os.kill(workers[0], signal.SIGKILL)
        case _ if workers:
            os.kill(workers[0], signal.SIGSTOP)
            time.sleep(dice.random() * 0.4)
            os.kill(workers[0], signal.SIGCONT)


@pytest.mark.parametrize("options", TARGETS, ids=str)
def test_right_or_an_error_whatever_dies(own_gateway: StartGateway, options: dict[str, Any]) -> None:
    gateway = own_gateway()
    namespace = new_namespace(LAYOUT)
    with gateway.open(**options, streams=2, buffer_bytes=6 * TOTAL_BYTES, timeout_s=3.0, fence_s=0.3) as cache:
        for seed in range(3):
            store_parts(cache, namespace, prompt(namespace, CHUNKS, seed=seed), cuts=[5])
        chaos = Chaos(cache, namespace)
        chaos.run(chaos.read, chaos.read, chaos.cancel, chaos.write)
        eventually(lambda: chaos.outcomes["well"] >= 10, "all goes well as long as nothing happens")
        dice = random.Random(SEED)
        until_s = time.monotonic() + CHAOS_S
        while time.monotonic() < until_s:
            wreck(gateway, dice)
            chaos.over.wait(dice.random() * 0.6)
            chaos.look()
        before = chaos.outcomes["well"]
        eventually(lambda: chaos.outcomes["well"] >= before + 10 or chaos.wrong, "clients come back by themselves")
        chaos.join()
        assert chaos.wrong == []
        assert chaos.stuck == []

        assert retrieve_and_check(cache, namespace, prompt(namespace, CHUNKS)).tokens > 0
        assert isinstance(cache, GatewayCache)
        usage = cache.pool.usage
        eventually(lambda: usage().in_use_bytes + usage().quarantined_bytes == 0, "all memory is free", 15)
    eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "no delivery is left", 15)
    assert gateway.stop() == 0
