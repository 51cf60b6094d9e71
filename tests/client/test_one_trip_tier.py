"""Match and retrieve in one round trip where the local tier holds some of it: what is asked, sent and had."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from objectcache.cache import PartId, RetrieveOptions
from objectcache.cache.tiering import Tiering, TierOptions
from objectcache.client import GatewayCache
from objectcache.errors import IntegrityError, ObjectCacheError
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule
from objectcache.messages import MatchAndRetrieveRequest
from objectcache.testing.synthetic import (
    check_delivery,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)
from objectcache.tier import LocalTier
from tests.client.asking import IN_ONE, TARGETS, Requests, all_is_free, load, open_cache
from tests.gateway.process import GatewayProcess, eventually

LAYERS, SLICE_BYTES, CHUNKS = 8, 64 << 10, 40
LAYOUT = flat_layout(LAYERS, SLICE_BYTES)
FIRST_LAYERS = 2
ASKED = (IN_ONE, "kv-match", "kv-retrieve")

# Where the client reads what is held: it copies it to the destination, or leaves it in mapped files.
WAYS = [(options, in_place) for options in TARGETS for in_place in (False, True)]
each_way = pytest.mark.parametrize(
    "way", WAYS, ids=lambda way: f"{way[0].get('receiver', way[0]['target'])}-{'in-place' if way[1] else 'read'}"
)
Way = tuple[dict[str, Any], bool]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


@pytest.fixture(autouse=True)
def on_any_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_(self: TierOptions) -> Tiering | None:
        folder = str(tmp_path / "tier")
        return Tiering(LocalTier(folder, self.limit_bytes, on_disk=True)) if self.limit_bytes else None

    monkeypatch.setattr(TierOptions, "open", open_)


class World:
    """A client with a tier, and what it asks its gateway."""

    def __init__(self, gateway: GatewayProcess, cache: GatewayCache, requests: Requests, namespace: Namespace) -> None:
        self.gateway, self.cache, self.requests, self.namespace = gateway, cache, requests, namespace
        self.chain = prompt(namespace, CHUNKS)
        assert cache.tiering is not None
        self.tiering = cache.tiering

    def load(self, chain: KeyChain, **options: Any) -> tuple[list[str], float]:
        """Load and check every byte: the requests that took, and how many layers of what came were sent."""
        before = self._sent_bytes()
        self.requests.seen.clear()
        tokens = load(self.cache, self.namespace, chain, **options)
        asked = [name for name in self.requests.seen if name in ASKED]
        self.tiering.settle()
        return asked, round((self._sent_bytes() - before) / (tokens // 16 * SLICE_BYTES), 1)

    def _sent_bytes(self) -> float:
        eventually(lambda: not self.gateway.metric("objectcache_deliveries_running"), "all deliveries are over")
        return self.gateway.metric("objectcache_delivered_bytes_total")


@contextmanager
def tiered(
    gateway: GatewayProcess, requests: Requests, way: Way = ({"target": "tcp"}, False), layout: KVLayout = LAYOUT
) -> Iterator[World]:
    """All of its memory is free in the end, and no file of the tier open."""
    options, in_place = way
    with open_cache(gateway, options, tier=TierOptions(limit_bytes=1 << 30)) as cache:
        if in_place:
            cache.register_buffers(lambda address, size_bytes: lambda: None)
        world = World(gateway, cache, requests, new_namespace(layout))
        yield world
        world.tiering.settle()
        all_is_free(cache)
        eventually(lambda: not open_files(), "nothing of the tier is open")


def open_files() -> list[str]:
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return [link for link in links if "/tier/extents/" in link]


@each_way
def test_what_is_held_is_not_sent_and_it_is_one_request(gateway: GatewayProcess, requests: Requests, way: Way) -> None:
    with tiered(gateway, requests, way) as world:
        store_parts(world.cache, world.namespace, world.chain, cuts=[7])
        assert world.load(world.chain)[1] == LAYERS
        assert world.load(world.chain) == ([IN_ONE], LAYERS - FIRST_LAYERS)
        assert world.load(world.chain) == ([IN_ONE], 0), "all is held: it is only matched"
        assert world.load(world.chain[: CHUNKS // 2], layers_per_unit=3) == ([IN_ONE], 0)
        assert (world.tiering.stats.hits, world.tiering.stats.misses) == (3, 1), "each was looked up once"


@each_way
def test_less_is_wanted_than_is_held(gateway: GatewayProcess, requests: Requests, way: Way) -> None:
    with tiered(gateway, requests, way) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        assert world.load(world.chain, most_tokens=CHUNKS // 2 * 16) == ([IN_ONE], LAYERS - FIRST_LAYERS)
        assert world.load(world.chain, most_tokens=CHUNKS // 2 * 16) == ([IN_ONE], 0), "all of that is held"
        asked, layers = world.load(world.chain)
        assert (asked, layers) == ([IN_ONE], (LAYERS - FIRST_LAYERS) / 2), "of the rest the first layers are"


@each_way
def test_more_is_asked_for_than_matches(gateway: GatewayProcess, requests: Requests, way: Way) -> None:
    with tiered(gateway, requests, way) as world:
        asked = prompt(world.namespace, CHUNKS + 30)
        store_parts(world.cache, world.namespace, world.chain[:20])
        world.load(asked)
        assert world.load(asked) == ([IN_ONE], LAYERS - FIRST_LAYERS)
        world.cache.commit([upload_part(world.cache, world.namespace, world.chain, first=20)])
        sent = FIRST_LAYERS * 0.5 + (LAYERS - FIRST_LAYERS) * 0.5, (LAYERS - FIRST_LAYERS) * 1.0 + FIRST_LAYERS * 0.5
        assert sent[0] <= world.load(asked)[1] <= sent[1], "the new chunks, and what of the others is not held"
        assert world.load(asked)[0] == [IN_ONE]


def lose(world: World, segment: Path, left: int) -> None:
    """The store loses a segment, and the gateway learns of it: `left` chunks match from here on. A session is open."""
    segment.unlink()
    world.gateway.restart()  # which has it open
    world.load(world.chain[:4])
    with world.gateway.open(target="http") as other:
        with pytest.raises(ObjectCacheError):
            retrieve_and_check(other, world.namespace, world.chain)
        eventually(lambda: other.match(world.namespace, world.chain).tokens == left * 16, "it is gone")


@each_way
def test_less_matches_than_is_held(gateway: GatewayProcess, requests: Requests, way: Way) -> None:
    with tiered(gateway, requests, way) as world:
        store_parts(world.cache, world.namespace, world.chain[:18])
        before = gateway.segments
        world.cache.commit([upload_part(world.cache, world.namespace, world.chain, first=18)])
        (later,) = gateway.segments - before
        world.load(world.chain)
        world.load(world.chain[:16])  # of which all is held from here on, and of the rest the first layers
        lose(world, later, 18)
        held = 16 * LAYERS + 2 * FIRST_LAYERS
        asked, layers = world.load(world.chain)
        assert asked == [IN_ONE]
        assert layers == round(LAYERS - held / 18, 1)
        assert world.load(world.chain)[0] == [IN_ONE]
        assert world.load(world.chain[:16]) == ([IN_ONE], 0)


@each_way
def test_other_versions_are_in_the_store(gateway: GatewayProcess, requests: Requests, way: Way) -> None:
    """Of the same chunks in another bucket, whose segments are others: nothing is mixed, and it is held afterwards."""
    gateway.ask("PUT", "/elsewhere")
    options, _ = way
    with tiered(gateway, requests, way) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        with open_cache(gateway, options, bucket="elsewhere", tier=TierOptions(limit_bytes=1 << 30)) as cache:
            other = World(gateway, cache, requests, world.namespace)
            store_parts(cache, other.namespace, other.chain)
            assert other.load(other.chain) == ([IN_ONE, IN_ONE], LAYERS), "refused, and asked again for all of it"
            assert other.load(other.chain) == ([IN_ONE], LAYERS - FIRST_LAYERS)
            all_is_free(cache)


@each_way
def test_less_than_windows_have_is_one_request(gateway: GatewayProcess, requests: Requests, way: Way) -> None:
    """They have no shorter prefix: there is room for all of it, and all of it comes."""
    layout = KVLayout(
        (
            KVGroup("full", 16, (KVShard(0, (0,), (SLICE_BYTES,)),)),
            KVGroup("sliding", 16, (KVShard(0, (1,), (SLICE_BYTES,)),), MatchRule.WINDOW, 64),
        )
    )
    with tiered(gateway, requests, way, layout) as world:
        for part in (PartId(0, 0), PartId(1, 0)):
            world.cache.commit([upload_part(world.cache, world.namespace, world.chain, part)])
        world.load(world.chain[:4])  # opens a session
        for _ in range(2):
            asked, _ = world.load(world.chain, most_tokens=20 * 16)
            assert asked == [IN_ONE]


@each_way
def test_windows(gateway: GatewayProcess, requests: Requests, way: Way) -> None:
    """What of a window is held counts where it begins as it would if all matched, and nowhere else."""
    window, extent = 88, 64
    layout = KVLayout(
        (
            KVGroup("full", 16, (KVShard(0, (0, 2), (SLICE_BYTES,) * 2),)),
            KVGroup("sliding", 16, (KVShard(0, (1, 3), (SLICE_BYTES,) * 2),), MatchRule.WINDOW, window * 16),
        )
    )
    parts = [PartId(0, 0), PartId(1, 0)]
    with tiered(gateway, requests, way, layout) as world:
        chain = prompt(world.namespace, window + extent)
        for part in parts:
            world.cache.commit([upload_part(world.cache, world.namespace, chain, part, stop=window)])
        assert world.load(chain) == ([IN_ONE], 4)
        assert world.load(chain) == ([IN_ONE], 2), "the window begins elsewhere: it is sent"
        assert world.load(chain[:window]) == ([IN_ONE], 0), "that is where all of it begins"
        for part in parts:
            world.cache.commit([upload_part(world.cache, world.namespace, chain, part, first=window)])
        asked, layers = world.load(chain)
        assert (asked, layers) == ([IN_ONE], round(4 * extent / (window + extent), 1)), "what has grown"
        assert world.load(prompt(world.namespace, window + extent + 9))[0] == [IN_ONE]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("options", TARGETS, ids=["tcp", "process", "http", "shm"])
def test_a_gateway_that_knows_nothing_of_it(
    gateway: GatewayProcess,
    requests: Requests,
    options: dict[str, Any],
    in_place: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sends all, which is right, and is asked in two trips from then on for what is held."""
    encode = MatchAndRetrieveRequest.encode
    monkeypatch.setattr(MatchAndRetrieveRequest, "encode", lambda self: encode(replace(self, held=())))
    with tiered(gateway, requests, (options, in_place)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        assert world.load(world.chain) == ([IN_ONE], LAYERS)
        assert world.load(world.chain) == ([IN_ONE], LAYERS)
        assert world.load(world.chain) == (["kv-match", "kv-retrieve"], LAYERS - FIRST_LAYERS)
        other = prompt(world.namespace, CHUNKS, seed=1)
        store_parts(world.cache, world.namespace, other)
        assert world.load(other) == ([IN_ONE], LAYERS), "of which nothing is held"


@each_way
def test_those_that_are_given_up_leave_nothing(gateway: GatewayProcess, requests: Requests, way: Way) -> None:
    with tiered(gateway, requests, way) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        for wanted in (0, FIRST_LAYERS, LAYERS - 1) * 5:
            match, retrieval = world.cache.match_and_retrieve(world.namespace, world.chain)
            assert retrieval is not None
            if wanted:
                retrieval.wait(wanted - 1)
            retrieval.close()
            world.cache.release(match)
        assert world.load(world.chain)[0] == [IN_ONE]


@each_way
def test_a_restart(gateway: GatewayProcess, requests: Requests, way: Way) -> None:
    with tiered(gateway, requests, way) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        gateway.restart()
        match, retrieval = world.cache.match_and_retrieve(world.namespace, world.chain)
        assert retrieval is not None
        with retrieval:
            assert [part.held for part in retrieval.geometry.parts] == [((FIRST_LAYERS, CHUNKS),)]
            check_delivery(retrieval, match)


def test_what_is_held_is_damaged(gateway: GatewayProcess, requests: Requests, tmp_path: Path) -> None:
    with tiered(gateway, requests) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        (path,) = [path for path in (tmp_path / "tier" / "extents").rglob("*") if path.is_file()]
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
        match, retrieval = world.cache.match_and_retrieve(world.namespace, world.chain)
        assert retrieval is not None
        with retrieval, pytest.raises(IntegrityError):
            check_delivery(retrieval, match)
        world.cache.release(match)
        assert world.load(world.chain) == ([IN_ONE], LAYERS)


@pytest.mark.parametrize("options", TARGETS, ids=["tcp", "process", "http", "shm"])
def test_what_is_held_is_there_whatever_comes(
    gateway: GatewayProcess, requests: Requests, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory that the tier still writes is not given away, though nobody else writes any more."""
    with tiered(gateway, requests, (options, False)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        on_over: list[Callable[[], None]] = []
        tiering_read = type(world.tiering).read

        def held_up(self: Tiering, holding: Any, geometry: Any, landing: Any, in_place: Any) -> None:
            on_over.append(lambda: tiering_read(self, holding, geometry, landing, in_place))

        with monkeypatch.context() as patched:
            patched.setattr(Tiering, "read", held_up)
            match, retrieval = world.cache.match_and_retrieve(
                world.namespace, world.chain, options=RetrieveOptions(layers_per_unit=1)
            )
        assert retrieval is not None
        eventually(lambda: not gateway.metric("objectcache_deliveries_running"), "all is sent")
        retrieval.close()
        usage = world.cache.pool.usage()
        assert usage.in_use_bytes + usage.quarantined_bytes > 0
        on_over[0]()  # and writes nothing, being cancelled
        all_is_free(world.cache)
        world.cache.release(match)
