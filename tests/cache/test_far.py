"""In-process use over a store that is far away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from objectcache import logview
from objectcache.cache import KVCache, Match, RetrieveOptions
from objectcache.cache.core import CacheCore
from objectcache.cache.directory import open_beside, state_folder
from objectcache.cache.far_reading import REQUESTS_AT_ONCE
from objectcache.cache.local import LocalCache, _descriptor
from objectcache.cache.requests import FIRST_REQUESTS, Request, plan_requests
from objectcache.cache.tiering import TieredDelivery
from objectcache.errors import (
    IntegrityError,
    KeyNotFoundError,
    ObjectCacheError,
    StoreUnavailableError,
)
from objectcache.keys import Namespace
from objectcache.names import SEGMENT_PREFIX, SNAPSHOT_PREFIX
from objectcache.stores import MemoryStore
from objectcache.testing.caches import CacheContract
from objectcache.testing.far import LatencyStore
from objectcache.testing.synthetic import (
    FIRST,
    LAYERWISE,
    check_delivery,
    check_layer,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
)
from tests.gateway.process import eventually


class TestFar(CacheContract):
    @pytest.fixture(autouse=True)
    def use(self, tmp_path: Path) -> None:
        self.objects = MemoryStore(1 << 30)
        self.folder = tmp_path

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        return LocalCache(open_beside(LatencyStore(self.objects, 0.002), self.folder), buffer_bytes=buffer_bytes)

    def restart(self) -> None:
        """Nothing runs between two openings."""


LAYERS, CHUNKS, SLICE_BYTES = 6, 8, 32 << 10


class World:
    """A cache over a far store, whose follower rests."""

    def __init__(self, folder: Path) -> None:
        self.objects = MemoryStore(1 << 30)
        self.store = LatencyStore(self.objects)
        self.cache = LocalCache(CacheCore.open(self.store, folder / "catalog"))
        self.namespace: Namespace = new_namespace(flat_layout(LAYERS, SLICE_BYTES))
        self.chain = prompt(self.namespace, CHUNKS)
        self._counted: dict[str, int] = {}

    def counted(self) -> dict[str, int]:
        """Requests since the last time."""
        before, self._counted = self._counted, dict(self.cache.request_counts())
        return {
            kind: count - before.get(kind, 0) for kind, count in self._counted.items() if count > before.get(kind, 0)
        }

    def requests(self, match: Match) -> list[Request]:
        """Those of a retrieval of all that matched."""
        delivery = TieredDelivery(None, match.namespace, match.parts)
        return list(
            plan_requests(self.cache.core.plan(_descriptor(match, delivery, RetrieveOptions(layers_per_unit=1))))
        )

    def segment(self) -> str:
        return next(iter(self.objects.list(SEGMENT_PREFIX))).name


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.cache:
        yield world


def test_requests_are_few(world: World) -> None:
    assert world.counted() == {"list": 2}, "snapshots and logs, of which there are none"
    store_parts(world.cache, world.namespace, world.chain[:4])
    assert world.counted() == {"put": 3, "list": 2}, "namespace, segment, record; where the own log ends"
    store_parts(world.cache, world.namespace, prompt(world.namespace, CHUNKS, seed=1))
    assert world.counted() == {"put": 2}
    world.cache.match(world.namespace, world.chain)
    assert world.cache.store(world.namespace, world.chain, FIRST, stop=4) is None
    assert world.counted() == {}
    retrieve_and_check(world.cache, world.namespace, world.chain)
    assert world.counted() == {"get": 1}, "768 KiB of one segment, in six layers"
    world.cache.core.follow()
    assert world.counted() == {"list": 1}


def test_another_process_reads_what_it_does_not_know_at_once(world: World, tmp_path: Path) -> None:
    for seed in range(20):
        store_parts(world.cache, world.namespace, prompt(world.namespace, 1, seed=seed))
    other = LatencyStore(world.objects, 0.05)
    with LocalCache(CacheCore.open(other, tmp_path / "other")) as cache:
        assert other.request_counts() == {"list": 2, "get": 21}, "records, and the namespace"
        assert other.most_at_once > 8
        assert retrieve_and_check(cache, world.namespace, prompt(world.namespace, 1, seed=19)).tokens == 16


def test_logs_of_more_records_than_a_page_are_listed_by_writer(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(logview, "_FLAT_RECORDS", 5)
    for seed in range(8):
        store_parts(world.cache, world.namespace, prompt(world.namespace, 1, seed=seed))
    with LocalCache(CacheCore.open(LatencyStore(world.objects), tmp_path / "other")) as other:
        store_parts(world.cache, world.namespace, prompt(world.namespace, 1, seed=8))
        before = dict(other.request_counts())
        other.core.follow()
        assert other.request_counts()["list"] - before["list"] == 2, "writers, and the one log"
        for seed in range(9):
            assert retrieve_and_check(other, world.namespace, prompt(world.namespace, 1, seed=seed)).tokens == 16


def test_a_snapshot_that_takes_long_keeps_nobody(world: World, tmp_path: Path) -> None:
    go_on = threading.Event()

    def hold(kind: str, name: str, offset: int) -> None:
        if name.startswith(SNAPSHOT_PREFIX) and kind == "put":
            go_on.wait(30)

    world.store.before = hold
    world.cache.core.journal.snapshot_every_records = 3
    for seed in range(8):
        store_parts(world.cache, world.namespace, prompt(world.namespace, 1, seed=seed))
        world.cache.core.follow()
    assert not list(world.objects.list(SNAPSHOT_PREFIX))
    go_on.set()
    eventually(lambda: len(list(world.objects.list(SNAPSHOT_PREFIX))) == 1, "the snapshot is there")
    with LocalCache(CacheCore.open(LatencyStore(world.objects), tmp_path / "other")) as other:
        for seed in range(8):
            assert retrieve_and_check(other, world.namespace, prompt(world.namespace, 1, seed=seed)).tokens == 16


def test_a_segment_that_is_gone_is_a_miss_and_forgotten(world: World) -> None:
    store_parts(world.cache, world.namespace, world.chain)
    match = world.cache.match(world.namespace, world.chain)
    world.store.delete(world.segment())
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval, pytest.raises(KeyNotFoundError):
        retrieval.wait(LAYERS - 1)
    eventually(lambda: not world.cache.match(world.namespace, world.chain).tokens, "the segment is forgotten")
    world.cache.release(match)
    eventually(lambda: not world.cache.pool.usage().quarantined_bytes, "its task is over")


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("where", ["piece digest", "slice digest that is not needed", "slice"])
def test_a_damaged_byte_is_an_error_of_its_layer_and_a_miss(world: World, layer: int, where: str) -> None:
    (ticket,) = store_parts(world.cache, world.namespace, world.chain)
    match = world.cache.match(world.namespace, world.chain)
    geometry = ticket.header.geometry
    at = {
        "piece digest": geometry.row_offset(layer),
        "slice digest that is not needed": geometry.slice_offset(layer, 0) - 1,
        "slice": geometry.slice_offset(layer, CHUNKS - 1),
    }[where]
    data = bytearray(world.objects.get(world.segment()))
    data[at] ^= 1
    world.objects.put(world.segment(), data)
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval:
        with pytest.raises(IntegrityError):
            retrieval.wait(layer)
        for landed in range(LAYERS):
            if retrieval.landed_s(landed) is not None:
                check_layer(retrieval, match.parts, landed)
    eventually(lambda: not world.cache.match(world.namespace, world.chain).tokens, "the segment is forgotten")


@pytest.mark.parametrize("held", range(12))
def test_requests_may_be_answered_in_any_order(world: World, held: int) -> None:
    """Of three layers of 8 MiB the first is eight requests, the others are two each. Rows come with the first ones."""
    world.namespace = new_namespace(flat_layout(3, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    requests = world.requests(match)
    assert len(requests) == 12
    layer = requests[held].contents[0].layer_run.layer
    go_on = threading.Event()
    answered: list[int] = []

    def hold(kind: str, name: str, offset: int) -> None:
        if offset == requests[held].begin:
            go_on.wait(30)
        answered.append(offset)

    world.store.before = hold
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval:
        try:
            eventually(lambda: len(answered) == 11, "the others are answered")
            if layer:
                retrieval.wait(layer - 1)
                check_layer(retrieval, match.parts, layer - 1)
            assert retrieval.landed_s(layer) is None
        finally:
            go_on.set()
        check_delivery(retrieval, match)


def test_few_requests_are_begun_with_and_more_later(world: World) -> None:
    """Later layers' would take their share of the network from the first one's."""
    world.namespace = new_namespace(flat_layout(40, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    permits = threading.Semaphore(0)
    begun: list[int] = []

    def hold(kind: str, name: str, offset: int) -> None:
        if kind == "get":
            begun.append(offset)
            permits.acquire(timeout=30)

    world.store.before = hold
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval:
        try:
            eventually(lambda: len(begun) >= FIRST_REQUESTS, "the first requests are under way")
            assert len(begun) == FIRST_REQUESTS
            permits.release(2)
            eventually(lambda: len(begun) >= FIRST_REQUESTS + 4, "two more for each that ended")
            permits.release(20)
            eventually(lambda: len(begun) >= 22 + REQUESTS_AT_ONCE, "all that may be are under way")
            assert world.store.most_at_once == REQUESTS_AT_ONCE
        finally:
            permits.release(1000)
        check_delivery(retrieval, match)


def test_closing_while_requests_wait_that_others_share(world: World) -> None:
    """More requests than there are threads, each wanted by two retrievals: those not begun are cancelled, and asked by
    nobody again."""
    world.namespace = new_namespace(flat_layout(3, 1 << 20))
    chains = [prompt(world.namespace, 8, seed=seed) for seed in range(4)]
    for chain in chains:
        store_parts(world.cache, world.namespace, chain)
    go_on = threading.Event()

    def hold(kind: str, name: str, offset: int) -> None:
        if kind == "get":
            go_on.wait(20)

    world.store.before = hold
    matches = [world.cache.match(world.namespace, chain) for chain in chains]
    retrievals = [world.cache.retrieve(match, options=LAYERWISE) for match in matches for _ in range(2)]
    closing = threading.Thread(target=world.cache.close)
    closing.start()
    eventually(lambda: world.cache._flights.closed, "closing has begun")
    go_on.set()
    closing.join(20)
    assert not closing.is_alive()
    for retrieval in retrievals:
        with suppress(ObjectCacheError):
            retrieval.wait(2, timeout_s=5)
        assert retrieval.complete or retrieval.error is not None, "it is known what has become of it"
    assert not all(retrieval.complete for retrieval in retrievals)
    for retrieval in retrievals:
        retrieval.close()


def test_retrievals_at_once_ask_once(world: World) -> None:
    """All begin while nothing is answered. None waits for another's end: the last to begin is read first."""
    world.namespace = new_namespace(flat_layout(3, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    go_on, last = threading.Event(), threading.Event()
    requests = world.requests(match)

    def hold(kind: str, name: str, offset: int) -> None:
        (last if offset == requests[-1].begin else go_on).wait(30)

    world.store.before = hold
    world.counted()
    with ExitStack() as stack:
        retrievals = [stack.enter_context(world.cache.retrieve(match, options=LAYERWISE)) for _ in range(4)]
        try:
            go_on.set()
            for retrieval in reversed(retrievals):  # although the first one's delivery has not ended
                retrieval.wait(0)
            assert not any(retrieval.complete for retrieval in retrievals)
        finally:
            go_on.set()
            last.set()
        for retrieval in retrievals:
            check_delivery(retrieval, match)
    assert world.counted() == {"get": len(requests)}


def test_many_requests_of_retrievals_at_once_are_shared_too(world: World) -> None:
    world.namespace = new_namespace(flat_layout(40, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    world.counted()
    with world.cache.retrieve(match, options=LAYERWISE) as alone:
        check_delivery(alone, match)
    one = world.counted()["get"]
    world.store.latency_s = 0.02
    with ExitStack() as stack:
        for retrieval in [stack.enter_context(world.cache.retrieve(match, options=LAYERWISE)) for _ in range(3)]:
            check_delivery(retrieval, match)
    assert one <= world.counted()["get"] < 2 * one, "and not three times as many"


@pytest.mark.parametrize("closes", [False, True])
def test_who_waited_for_an_answer_that_failed_asks_itself(world: World, closes: bool) -> None:
    store_parts(world.cache, world.namespace, world.chain)
    match = world.cache.match(world.namespace, world.chain)
    go_on, asked = threading.Event(), threading.Event()

    def fails_once(kind: str, name: str, offset: int) -> None:
        if not asked.is_set():
            asked.set()
            go_on.wait(30)
            raise StoreUnavailableError("away")

    world.store.before = fails_once
    world.counted()
    with world.cache.retrieve(match, options=LAYERWISE) as first:
        assert asked.wait(30)
        with world.cache.retrieve(match, options=LAYERWISE) as second:
            if closes:
                second.close()
            go_on.set()
            with pytest.raises(StoreUnavailableError):
                first.wait(0)
            if not closes:
                check_delivery(second, match)
    eventually(lambda: not world.cache.pool.usage().quarantined_bytes, "nothing writes a destination any more")
    assert world.counted() == {"get": 1 if closes else 2}


def test_closing_a_retrieval_ends_its_requests(world: World) -> None:
    world.namespace = new_namespace(flat_layout(40, 1 << 20))
    chain = prompt(world.namespace, 8)
    store_parts(world.cache, world.namespace, chain)
    match = world.cache.match(world.namespace, chain)
    go_on = threading.Event()

    def hold(kind: str, name: str, offset: int) -> None:
        go_on.wait(30)

    world.store.before = hold
    world.counted()
    retrieval = world.cache.retrieve(match, options=LAYERWISE)
    eventually(lambda: sum(world.cache.request_counts().values()) >= 20, "requests are under way")
    retrieval.close()
    assert world.cache.pool.usage().quarantined_bytes
    go_on.set()
    eventually(lambda: not world.cache.pool.usage().quarantined_bytes, "nothing writes the destination any more")
    assert world.counted()["get"] <= REQUESTS_AT_ONCE


def test_a_store_that_breaks_is_not_a_segment_that_is_gone(world: World) -> None:
    store_parts(world.cache, world.namespace, world.chain)
    match = world.cache.match(world.namespace, world.chain)

    def broken(kind: str, name: str, offset: int) -> None:
        raise StoreUnavailableError("away")

    world.store.before = broken
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval, pytest.raises(StoreUnavailableError):
        retrieval.wait(0)
    world.store.before = lambda kind, name, offset: None
    assert retrieve_and_check(world.cache, world.namespace, world.chain).tokens == CHUNKS * 16


def test_a_long_prefix_takes_a_few_latencies(world: World) -> None:
    """32 layers of 4 MiB, 100 ms away: one by one they would take three seconds."""
    world.namespace = new_namespace(flat_layout(32, 256 << 10))
    chain = prompt(world.namespace, 16)
    store_parts(world.cache, world.namespace, chain, cuts=[5])
    match = world.cache.match(world.namespace, chain)
    requests = world.requests(match)
    later = len(requests) - FIRST_REQUESTS
    assert 1 + -(-later // REQUESTS_AT_ONCE) <= 3
    world.store.most_at_once = 0
    world.store.latency_s = 0.1
    world.counted()
    with world.cache.retrieve(match, options=LAYERWISE) as retrieval:
        check_delivery(retrieval, match)
    assert world.counted() == {"get": len(requests)}
    assert FIRST_REQUESTS <= world.store.most_at_once <= REQUESTS_AT_ONCE


def test_state_is_in_a_folder_of_each_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one = state_folder("s3://bucket/one")
    assert one.parent == tmp_path / "cache" / "objectcache"
    assert one != state_folder("s3://bucket/two")
    assert state_folder("s3://bucket/one", tmp_path) == tmp_path / one.name
    for none in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", none)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert state_folder("s3://bucket/one") == tmp_path / "home" / ".cache" / "objectcache" / one.name
