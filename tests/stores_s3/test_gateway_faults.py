"""What a gateway does while the store behind it fails, and after."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from objectcache.cache import KVCache, RetrieveOptions
from objectcache.errors import (
    DeliveryTimeoutError,
    IntegrityError,
    KeyNotFoundError,
    ObjectCacheError,
)
from objectcache.keys import KeyChain
from objectcache.stores.s3 import S3Timing
from objectcache.testing.synthetic import (
    check_delivery,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
)
from tests.fault_proxy import FaultProxy
from tests.gateway.process import Answer, eventually, resources_of
from tests.services import S3Service
from tests.stores_s3.gateways import Pair, gateway_over

T = TypeVar("T")
LAYOUT = flat_layout(4, 64 << 10)
CHUNKS = 16
TOKENS = CHUNKS * LAYOUT.key_tokens
SLACK_S = 10.0
"""For a busy machine."""
DEADLINE_S = 3.0
AT_ONCE = 12
POOLED_THREADS = 80
"""Of a data worker, which keeps some. Each test has three times AT_ONCE orders waiting at once, and all use one."""
OBJECT = bytes(3 << 20)

FAULTS: dict[str, Callable[[FaultProxy], None]] = {
    "down": FaultProxy.down,
    "slow": lambda proxy: proxy.slow(0.3),
    "errors": lambda proxy: proxy.answer(500),
    "cut": lambda proxy: proxy.cut(50),
    "short": FaultProxy.shorten,
    "hangs": FaultProxy.hang,
}


@pytest.fixture(scope="module")
def pairs() -> Iterator[list[Pair]]:
    started: list[Pair] = []
    yield started
    for pair in started:
        try:
            pair.stop()
        finally:
            pair.end()


@pytest.fixture
def pair(rgw: S3Service, pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if not pairs:
        pairs.append(Pair.start(rgw, tmp_path_factory.mktemp("pair")))
    yield pairs[0]
    pairs[0].proxy.heal()


class Asked:
    """What is asked of a gateway while its store fails, each from a thread of its own, and what came of it."""

    def __init__(self, pair: Pair, cache: KVCache) -> None:
        self.pair, self.cache = pair, cache
        self.namespace = new_namespace(LAYOUT)
        self.warm, *self.cold = (prompt(self.namespace, CHUNKS, seed=seed) for seed in range(1 + AT_ONCE))

    def match(self) -> int:
        return self.cache.match(self.namespace, self.warm).tokens

    def retrieve(self, chain: KeyChain) -> type[ObjectCacheError] | None:
        match = self.cache.match(self.namespace, chain)
        assert match.tokens == TOKENS
        try:
            with self.cache.retrieve(
                match, options=RetrieveOptions(layers_per_unit=1, deadline_s=DEADLINE_S)
            ) as retrieval:
                check_delivery(retrieval, match)
        except ObjectCacheError as error:
            return type(error)
        return None

    def delivers(self, chain: KeyChain) -> bool:
        return self.retrieve(chain) is None

    def get(self, key: str) -> Answer | None:
        """None: the body broke off."""
        client = self.pair.client(self.pair.far)
        try:
            found = client.get_object(Bucket="kvcache", Key=key)
            return Answer(200, {}, found["Body"].read())
        except client.exceptions.ClientError as error:
            answer = error.response
            return Answer(answer["ResponseMetadata"]["HTTPStatusCode"], {}, answer["Error"]["Code"].encode())
        except Exception:  # noqa: BLE001 - urllib3 has many ways to say that a body ended early
            return None


def timed(call: Callable[[], T]) -> tuple[T, float]:
    begun_s = time.monotonic()
    result = call()
    return result, time.monotonic() - begun_s


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_that_fails_behind_a_gateway(pair: Pair, fault: str) -> None:
    with pair.near.open() as near, pair.far.open(timeout_s=60.0) as far:
        asked = Asked(pair, far)
        for chain in asked.cold:
            store_parts(near, asked.namespace, chain)
        store_parts(far, asked.namespace, asked.warm)
        pair.client(pair.far).put_object(Bucket="kvcache", Key="small", Body=b"small")
        pair.client(pair.far).put_object(Bucket="kvcache", Key="large", Body=OBJECT)
        last = asked.cold[-1]
        eventually(lambda: far.match(asked.namespace, last).tokens == TOKENS, "all is known")
        (worker,) = pair.far.worker_pids

        FAULTS[fault](pair.proxy)
        with ThreadPoolExecutor(4 * AT_ONCE) as threads:
            gets = [threads.submit(timed, partial(asked.get, key)) for key in ("small", "large") * AT_ONCE]
            colds = [threads.submit(timed, partial(asked.retrieve, chain)) for chain in asked.cold]
            time.sleep(0.5)
            matches = [timed(asked.match) for _ in range(10)]
            warm = timed(lambda: asked.retrieve(asked.warm))
            stored = threads.submit(timed, lambda: outcome_of_storing(asked))
            gets_done = [get.result() for get in gets]
            colds_done = [cold.result() for cold in colds]
            stored_done = stored.result()

        # Hits go on from the catalog, and from the disk.
        assert {tokens for tokens, _ in matches} == {TOKENS}
        assert max(took_s for _, took_s in matches) < 1.0 + SLACK_S
        assert warm[0] is None
        assert warm[1] < SLACK_S
        # What the store is needed for fails, with an error that says so, and in time.
        bound_s = S3Timing().bound_s
        assert max(took_s for _, took_s in colds_done) < DEADLINE_S + SLACK_S
        assert max(took_s for _, took_s in [*gets_done, stored_done]) < 2 * bound_s + SLACK_S
        failures = {kind for kind, _ in colds_done}
        answers = {answer.status if isinstance(answer, Answer) else None for answer, _ in gets_done}
        if fault == "slow":
            assert failures <= {None, DeliveryTimeoutError}
            assert answers == {200}
        else:
            assert None not in failures
            absent = [kind for kind in failures if kind and issubclass(kind, KeyNotFoundError | IntegrityError)]
            assert not absent
            assert (failures == {DeliveryTimeoutError}) == (fault == "hangs"), "late is not failed"
            # A HEAD has no body to be cut: then an answer that has begun breaks off.
            assert answers <= ({503, 200, None} if fault in ("cut", "short") else {503})
            assert answers & {503, None}
        assert pair.far.metric("objectcache_core_forgotten") == 0

        pair.proxy.heal()
        for chain in asked.cold:
            eventually(partial(asked.delivers, chain), "it goes on by itself")
        whole = asked.get("large")
        assert whole is not None
        assert whole.body == OBJECT
        store_parts(far, asked.namespace, prompt(asked.namespace, CHUNKS, seed=100))
        eventually(lambda: resources_of(worker)[1] <= POOLED_THREADS, "no threads are left behind")
        assert pair.far.worker_pids == [worker]
        assert pair.far.ask("GET", "/readyz").status == 200


def outcome_of_storing(asked: Asked) -> type[ObjectCacheError] | None:
    try:
        store_parts(asked.cache, asked.namespace, prompt(asked.namespace, 2, seed=99))
    except ObjectCacheError as error:
        return type(error)
    return None


@pytest.mark.parametrize("fault", ["down", "hangs"])
def test_a_gateway_does_not_start_without_its_store_and_says_so(rgw: S3Service, tmp_path: Path, fault: str) -> None:
    with FaultProxy(rgw.port) as proxy:
        gateway = gateway_over(f"s3://{rgw.make_bucket()}?endpoint={proxy.endpoint}", tmp_path)
        gateway.start().stop()
        FAULTS[fault](proxy)
        begun_s = time.monotonic()
        command = [sys.executable, "-m", "objectcache", "serve", "--config", str(tmp_path / "gateway.toml")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert time.monotonic() - begun_s < S3Timing().bound_s + 2 + SLACK_S
        assert ended.returncode == 1
        assert "failed" in ended.stderr
        assert "Traceback" not in ended.stderr
        proxy.heal()
        gateway.start()
        gateway.stop()


def test_a_gateway_ends_while_its_store_hangs(rgw: S3Service, tmp_path: Path) -> None:
    with FaultProxy(rgw.port) as proxy:
        gateway = gateway_over(f"s3://{rgw.make_bucket()}?endpoint={proxy.endpoint}", tmp_path)
        gateway.start()
        namespace = new_namespace(LAYOUT)
        with gateway.open() as cache:
            store_parts(cache, namespace, prompt(namespace, CHUNKS))
            proxy.hang()
            assert retrieve_and_check(cache, namespace, prompt(namespace, CHUNKS)).tokens == TOKENS
            begun_s = time.monotonic()
            assert gateway.stop() == 0
            assert time.monotonic() - begun_s < S3Timing().bound_s + SLACK_S
