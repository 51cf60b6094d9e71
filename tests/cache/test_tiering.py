"""The local tier beside a cache over a far store: fewer requests, the same bytes, one version of each chunk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from objectcache.cache import KVCache, Match, RetrieveOptions
from objectcache.cache.core import CacheCore
from objectcache.cache.directory import open_beside
from objectcache.cache.local import LocalCache
from objectcache.cache.tiering import Tiering, TierOptions
from objectcache.errors import ConfigError, IntegrityError
from objectcache.keys import KeyChain
from objectcache.layout import KVGroup, KVLayout, KVShard
from objectcache.stores import MemoryStore
from objectcache.testing.caches import CacheContract
from objectcache.testing.far import LatencyStore
from objectcache.testing.synthetic import (
    FIRST,
    check_delivery,
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)
from objectcache.tier import LocalTier, cutting

LAYERS, STEP = 6, 4
LAYOUT = flat_layout(LAYERS, 4096)


@pytest.fixture(autouse=True)
def short_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "MIN_STEP_CHUNKS", STEP)
    monkeypatch.setattr(cutting, "STEP_BYTES", STEP * 4096)


def tiering(folder: Path, limit_bytes: int = 1 << 30) -> Tiering:
    return Tiering(LocalTier(str(folder), limit_bytes, on_disk=True))


class TestTiered(CacheContract):
    """Whatever a cache promises holds with a tier as well."""

    @pytest.fixture(autouse=True)
    def use(self, tmp_path: Path) -> None:
        self.objects = MemoryStore(1 << 30)
        self.folder = tmp_path

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        core = open_beside(LatencyStore(self.objects), self.folder / "state")
        return LocalCache(core, buffer_bytes=buffer_bytes, tiering=tiering(self.folder / "tier"))

    def restart(self) -> None:
        """Nothing runs between two openings."""


class TestInPlace(TestTiered):
    """Nor does it matter where what is held is read."""

    def open_cache(self, *, buffer_bytes: int = 1 << 30) -> KVCache:
        cache = super().open_cache(buffer_bytes=buffer_bytes)
        cache.register_buffers(registrar)
        return cache


def registrar(address: int, size_bytes: int) -> Callable[[], None]:
    return lambda: None


class World:
    in_place = False

    def __init__(self, folder: Path, limit_bytes: int = 1 << 30) -> None:
        self.store = LatencyStore(MemoryStore(1 << 30))
        self.tiering = tiering(folder / "tier", limit_bytes)
        self.cache = LocalCache(CacheCore.open(self.store, folder / "catalog"), tiering=self.tiering)
        if self.in_place:
            self.cache.register_buffers(registrar)
        self.namespace = new_namespace(LAYOUT)
        self._gets = 0

    def come(self, chain: KeyChain, options: RetrieveOptions | None = None) -> int:
        """Retrieve and check; how many requests it took."""
        match = self.cache.match(self.namespace, chain)
        with self.cache.retrieve(match, options=options) as retrieval:
            seen = {
                (chunks.part, chunks.layer, chunks.first): np.concatenate(
                    retrieval.blocks(chunks.layer, chunks.part, chunks.first, chunks.stop)
                )
                for chunks in retrieval.follow()
            }
            check_delivery(retrieval, match)
            for (part, layer, first), slices in seen.items():
                assert np.array_equal(slices, retrieval.view(layer, part)[first : first + len(slices)])
        self.tiering.settle()
        return self.gets()

    def gets(self) -> int:
        before, self._gets = self._gets, self.cache.request_counts().get("get", 0)
        return self._gets - before


@pytest.fixture(params=[False, True], ids=["read", "in place"])
def in_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(World, "in_place", request.param)
    return bool(request.param)


@pytest.fixture
def world(tmp_path: Path, in_place: bool) -> Iterator[World]:
    world = World(tmp_path)
    with world.cache:
        yield world


def test_a_prefix_comes_again_and_again(world: World) -> None:
    chain = prompt(world.namespace, 10)
    store_parts(world.cache, world.namespace, chain)
    assert world.come(chain) > 0
    assert world.come(chain) > 0, "its first layers are there, and nothing else"
    assert world.come(chain) == 0, "all of it is there"
    assert world.come(chain[:7]) == 0
    assert (world.tiering.stats.hits, world.tiering.stats.misses) == (3, 1)
    assert world.tiering.stats.read_bytes == (2 * 10 + LAYERS * 10 + LAYERS * 7) * 4096


@pytest.mark.parametrize("per_unit", [1, 2, 4, 100])
def test_a_conversation_grows(world: World, per_unit: int) -> None:
    chain = prompt(world.namespace, 30)
    options = RetrieveOptions(layers_per_unit=per_unit)
    stops = (5, 9, 10, 20, 30)
    for first, stop in zip((0, *stops), stops, strict=False):
        world.cache.commit([upload_part(world.cache, world.namespace, chain, first=first, stop=stop)])
        for _ in range(2):
            world.come(chain[:stop], options)
    world.come(chain, options)
    assert world.come(chain, options) == 0


def test_groups(tmp_path: Path, in_place: bool) -> None:
    """Layers of two kinds that take turns, with chunks and slices of their own."""
    full = KVGroup("full", 16, (KVShard(0, (0, 2, 4), (4096,) * 3),))
    latent = KVGroup("latent", 32, (KVShard(0, (1, 3, 5), (2048, 4096, 1024)),))
    world = World(tmp_path)
    with world.cache:
        world.namespace = new_namespace(KVLayout((full, latent)))
        chain = prompt(world.namespace, 16)
        store_parts(world.cache, world.namespace, chain, [FIRST, FIRST._replace(group=1)])
        for _ in range(2):
            assert world.come(chain) > 0
        assert world.come(chain) == 0
        assert world.come(chain[:6]) == 0


def test_a_chunk_is_never_of_two_versions(world: World) -> None:
    """The segment is replaced by one with other bytes: first layers of the old one are not put beside them."""
    chain = prompt(world.namespace, 8)
    (old,) = store_parts(world.cache, world.namespace, chain)
    world.come(chain)
    world.cache.core.forget(old.header.name)
    upload = world.cache.store(world.namespace, chain, FIRST)
    assert upload is not None
    with upload:
        for _ in range(LAYERS):
            upload.write_layer(b"\xee" * 8 * 4096)
        world.cache.commit([upload.finish()])
    match = world.cache.match(world.namespace, chain)
    for _ in range(3):
        with world.cache.retrieve(match) as retrieval:
            retrieval.wait(LAYERS - 1)
            assert all((retrieval.view(layer) == 0xEE).all() for layer in range(LAYERS))
        world.tiering.settle()
    assert world.gets() > 0
    with world.cache.retrieve(match) as retrieval:
        retrieval.wait(LAYERS - 1)
    assert world.gets() == 0, "the new one is held by now"


def test_damage_in_the_tier_is_a_miss_once(world: World, tmp_path: Path, in_place: bool) -> None:
    chain = prompt(world.namespace, 4)
    store_parts(world.cache, world.namespace, chain)
    world.come(chain)
    (path,) = [path for path in (tmp_path / "tier" / "extents").rglob("*") if path.is_file()]
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    match = world.cache.match(world.namespace, chain)
    if in_place:
        # It was verified when it was mapped. What happened to the file since is seen by those who map or read it next.
        world.tiering.tier.mappings.drop(*world.tiering.tier.mappings._files)
    with world.cache.retrieve(match) as retrieval, pytest.raises(IntegrityError):
        retrieval.wait(LAYERS - 1)
    assert retrieve_and_check(world.cache, world.namespace, chain).tokens == 4 * 16, "the store's segment is believed"


def test_any_order_of_prompts(tmp_path: Path, in_place: bool) -> None:
    """Branches of branches under a small limit: whatever is held or not, the bytes are right."""
    random_ = random.Random(7)
    world = World(tmp_path, limit_bytes=40 * STEP * 4096)
    with world.cache:
        stem = prompt(world.namespace, 24)
        chains = [stem, *(prompt(world.namespace, 24, seed=seed, shared=shared) for seed, shared in ((1, 6), (2, 15)))]
        for chain in chains:
            tokens = world.cache.match(world.namespace, chain).tokens
            world.cache.commit([upload_part(world.cache, world.namespace, chain, first=tokens // 16)])
        for _ in range(60):
            chain = random_.choice(chains)[: random_.randint(1, 24)]
            world.come(chain, RetrieveOptions(layers_per_unit=random_.choice((1, 2, 5))))
        assert world.tiering.stats.hits
        assert world.tiering.stats.kept_bytes
        assert world.tiering.tier.usage().used_bytes <= 40 * STEP * 4096


def test_what_comes_again_is_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, grown and shortened; views for those who want a layer in one stretch are right too."""
    monkeypatch.setattr(World, "in_place", True)
    world = World(tmp_path)
    with world.cache:
        chain = prompt(world.namespace, 22)
        world.cache.commit([upload_part(world.cache, world.namespace, chain, stop=10)])
        for _ in range(2):
            world.come(chain[:10])
        assert world.tiering.tier.mappings.mapped_bytes == LAYERS * 10 * 4096
        world.gets()
        assert world.come(chain[:10]) == 0
        world.cache.commit([upload_part(world.cache, world.namespace, chain, first=10)])
        match = world.cache.match(world.namespace, chain)
        with world.cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1)) as retrieval:
            assert (0, 0, 0, 10) in list(retrieval.follow()), "what is held, apart from what comes"
            addresses = [block.ctypes.data for block in retrieval.blocks(0, 0, 0, 10)]
            own = np.frombuffer(retrieval.memory, np.uint8).ctypes.data
            assert len(addresses) == 3, "of three files"
            assert all(not own <= address < own + len(retrieval.memory) for address in addresses)
            check_delivery(retrieval, match)
        world.tiering.settle()
        assert world.come(chain) > 0, "of what is new, its first layers are there"
        assert world.come(chain) == 0
        assert world.come(chain[:13]) == 0
        held = world.tiering.tier.usage().used_bytes
        assert 0 < world.tiering.tier.mappings.mapped_bytes <= held
    assert world.tiering.tier.mappings.mapped_bytes == 0


def test_a_retrieval_that_is_given_up(world: World) -> None:
    chain = prompt(world.namespace, 16)
    store_parts(world.cache, world.namespace, chain)
    for _ in range(3):
        world.come(chain)
    match: Match = world.cache.match(world.namespace, chain)
    for _ in range(20):
        world.cache.retrieve(match).close()
    retrieve_and_check(world.cache, world.namespace, chain)
    world.tiering.settle()
    assert world.cache.pool.usage().in_use_bytes == world.cache.pool.usage().quarantined_bytes == 0


def test_no_tier_without_a_limit() -> None:
    assert TierOptions().open() is None
    with pytest.raises(ConfigError):
        TierOptions(limit_bytes=-1)
    with pytest.raises(ConfigError, match="tmpfs"):
        TierOptions(limit_bytes=1 << 20, directory="/proc/self/fd").open()
