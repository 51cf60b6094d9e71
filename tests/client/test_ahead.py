"""What the local tier holds is given ahead of the answer, and counts only if that is what comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from objectcache.cache.ahead import Ahead
from objectcache.cache.base import PartId, whole_match
from objectcache.cache.in_place import Slices
from objectcache.cache.retrieval import Retrieval
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule
from objectcache.messages import MatchAndRetrieveAnswer
from objectcache.testing.synthetic import check_delivery, expected_layer, prompt, store_parts, upload_part
from tests.client.asking import TARGETS, Requests, all_is_free, open_cache
from tests.client.test_one_trip_tier import (
    CHUNKS,
    FIRST_LAYERS,
    SLICE_BYTES,
    World,
    lose,
    on_any_disk,
    requests,
    tiered,
)
from tests.gateway.process import GatewayProcess

__all__ = ["on_any_disk", "requests"]

each_target = pytest.mark.parametrize("options", TARGETS, ids=["tcp", "process", "http", "shm"])


class Taker(Ahead):
    """Keeps a copy of what it takes, and looks at it again when it is let go."""

    def __init__(self, world: World, on_take: Callable[[], None] = lambda: None) -> None:
        self._whole = whole_match(world.namespace, world.chain)
        self.taken: dict[tuple[int, int], Sequence[Slices]] = {}
        self.waits = self.begun = 0
        self._on_take = on_take

    def begin(self) -> bool:
        self.begun += 1
        return self.begun == 1

    def take(self, part: int, layer: int, blocks: Sequence[Slices]) -> None:
        assert (part, layer) not in self.taken
        self.taken[part, layer] = blocks
        self._check()
        self._on_take()

    def wait(self) -> None:
        self.waits += 1
        if self.waits == 1:
            self._check()  # it is still there

    def _check(self) -> None:
        for (part, layer), blocks in self.taken.items():
            found = np.concatenate(blocks)
            assert np.array_equal(found, expected_layer(self._whole.parts[part], layer)[: len(found)])

    @property
    def chunks(self) -> dict[tuple[int, int], int]:
        return {key: sum(map(len, blocks)) for key, blocks in self.taken.items()}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[MatchAndRetrieveAnswer]:
    """Those that came."""
    came: list[MatchAndRetrieveAnswer] = []
    decode = MatchAndRetrieveAnswer.decode.__func__  # type: ignore[attr-defined]  # of a class method

    def noting(cls: type[MatchAndRetrieveAnswer], data: bytes) -> MatchAndRetrieveAnswer:
        answer: MatchAndRetrieveAnswer = decode(cls, data)
        came.append(answer)
        return answer

    monkeypatch.setattr(MatchAndRetrieveAnswer, "decode", classmethod(noting))
    return came


def ask(world: World, taker: Taker, **options: Any) -> Retrieval:
    match, retrieval = world.cache.match_and_retrieve(world.namespace, world.chain, ahead=taker, **options)
    assert retrieval is not None
    check_delivery(retrieval, match.bounded(options.get("most_tokens")))
    return retrieval


@each_target
def test_it_is_given_before_the_answer(
    gateway: GatewayProcess, requests: Requests, options: dict[str, Any], answers: list[MatchAndRetrieveAnswer]
) -> None:
    with tiered(gateway, requests, (options, True)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        before = len(answers)
        then: list[int] = []
        taker = Taker(world, lambda: then.append(len(answers)))
        with ask(world, taker) as retrieval:
            assert taker.chunks == {(0, layer): CHUNKS for layer in range(FIRST_LAYERS)}
            assert then == [before] * FIRST_LAYERS
            assert len(answers) == before + 1
            assert retrieval.ahead is taker
            assert not taker.waits, "it may still be read"
        assert taker.waits, "before what is held is let go"


@each_target
def test_no_more_than_is_wanted(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    with tiered(gateway, requests, (options, True)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        taker = Taker(world)
        with ask(world, taker, most_tokens=20 * 16) as retrieval:
            assert taker.chunks == {(0, layer): 20 for layer in range(FIRST_LAYERS)}
            assert retrieval.ahead is taker


@each_target
def test_all_is_held(
    gateway: GatewayProcess, requests: Requests, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first layer, whatever it takes, and no more than is worth it before the answer."""
    with tiered(gateway, requests, (options, True)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        for _ in range(2):
            world.load(world.chain)
        layer_bytes = expected_layer(whole_match(world.namespace, world.chain).parts[0], 0).nbytes
        for most_bytes, layers in ((0, 1), (layer_bytes * 3, 3)):
            monkeypatch.setattr("objectcache.cache.tiering._AHEAD_BYTES", most_bytes)
            taker = Taker(world)
            with ask(world, taker) as retrieval:
                assert taker.chunks == {(0, layer): CHUNKS for layer in range(layers)}
                assert retrieval.ahead is taker


@each_target
def test_other_versions_are_in_the_store(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    gateway.ask("PUT", "/elsewhere")
    with tiered(gateway, requests, (options, True)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        with open_cache(gateway, options, bucket="elsewhere") as cache:
            cache.tiering = world.tiering  # which has mapped what it holds
            other = World(gateway, cache, requests, world.namespace)
            store_parts(cache, other.namespace, other.chain)
            taker = Taker(other)
            with ask(other, taker) as retrieval:
                assert taker.chunks, "there was something to take"
                assert taker.waits, "it was let go already"
                assert retrieval.ahead is None
            world.tiering.settle()
            cache.tiering = None
            all_is_free(cache)


@each_target
def test_less_matches(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    """More was taken than comes: it is the taker's to see."""
    with tiered(gateway, requests, (options, True)) as world:
        store_parts(world.cache, world.namespace, world.chain[:18])
        before = gateway.segments
        world.cache.commit([upload_part(world.cache, world.namespace, world.chain, first=18)])
        (later,) = gateway.segments - before
        world.load(world.chain)
        lose(world, later, 18)
        taker = Taker(world)
        with ask(world, taker) as retrieval:
            assert taker.chunks[0, 0] == CHUNKS
            assert retrieval.geometry.parts[0].num_chunks == 18
            assert retrieval.ahead is taker


@each_target
def test_what_is_not_mapped_is_not_given(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    with tiered(gateway, requests, (options, False)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        taker = Taker(world)
        with ask(world, taker):
            assert not taker.taken


@each_target
def test_who_cannot_take_it(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    """What fails is not more than would have been saved."""
    with tiered(gateway, requests, (options, True)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)

        def unable() -> None:
            raise OSError("no room")

        taker = Taker(world, unable)
        with ask(world, taker) as retrieval:
            assert list(taker.taken) == [(0, 0)]
            assert taker.waits
            assert retrieval.ahead is None
        all_is_free(world.cache)


@each_target
def test_it_is_of_one_request(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    with tiered(gateway, requests, (options, True)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        taker = Taker(world)
        ask(world, taker).close()
        with ask(world, taker) as retrieval:
            assert retrieval.ahead is None


def test_a_request_that_is_asked_again(gateway: GatewayProcess, requests: Requests) -> None:
    """The session is gone: what was taken for it counts."""
    with tiered(gateway, requests, ({"target": "tcp"}, True)) as world:
        store_parts(world.cache, world.namespace, world.chain)
        world.load(world.chain)
        gateway.restart()
        taker = Taker(world)
        with ask(world, taker) as retrieval:
            assert taker.begun == 1
            assert retrieval.ahead is taker


def test_parts_that_stand_elsewhere(gateway: GatewayProcess, requests: Requests) -> None:
    """A window begins elsewhere, since less matches than was asked for."""
    window, extent = 8, 24
    layout = KVLayout(
        (
            KVGroup("full", 16, (KVShard(0, (0,), (SLICE_BYTES,)),)),
            KVGroup("sliding", 16, (KVShard(0, (1,), (SLICE_BYTES,)),), MatchRule.WINDOW, window * 16),
        )
    )
    with tiered(gateway, requests, ({"target": "tcp"}, True), layout) as world:
        chain = prompt(world.namespace, window + extent)
        for part in (PartId(0, 0), PartId(1, 0)):
            world.cache.commit([upload_part(world.cache, world.namespace, chain, part)])
        world.load(chain)
        world.chain = prompt(world.namespace, window + extent + 9)
        taker = Taker(world)
        with ask(world, taker) as retrieval:
            assert (0, 0) in taker.taken
            assert taker.waits
            assert retrieval.ahead is None
