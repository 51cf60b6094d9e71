"""What receiving processes are told while the gateway works, and what becomes of it with the answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.cache import RetrieveOptions
from objectcache.cache.base import whole_match
from objectcache.client import GatewayCache, one_trip
from objectcache.client.http import GatewayHttp
from objectcache.client.orders import SLOTS, Order
from objectcache.client.process_receivers import ProcessReceivers
from objectcache.errors import DeliveryError, ObjectCacheError, RequestError
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import DeliveryGeometry, PartShape, delivery_geometry
from objectcache.messages import MatchAndRetrieveAnswer
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from objectcache.transports.joint import ArrivalBoard
from objectcache.transports.receiver import ExpectedPart
from objectcache.workers.channel import pack
from tests.gateway.process import GatewayProcess, eventually

LAYOUT = flat_layout(8, 64 << 10)
CHUNKS = 16
LONGER = 24


class World:
    """A cache with two receiving processes, which is asked for 16 chunks that are stored, or for more."""

    def __init__(self, cache: GatewayCache, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = cache
        self.namespace: Namespace = new_namespace(LAYOUT)
        self.chain = prompt(self.namespace, LONGER)
        store_parts(cache, self.namespace, self.chain[:CHUNKS])
        self.load()
        self.said: list[dict[str, Any]] = []

        def spying(message: dict[str, Any]) -> bytes:
            self.said.append(message)
            return pack(message)

        monkeypatch.setattr("objectcache.client.process_receivers.pack", spying)

    def load(self, keys: int = CHUNKS, units: int = 1) -> None:
        options = RetrieveOptions(layers_per_unit=units)
        match, retrieval = self.cache.match_and_retrieve(self.namespace, self.chain[:keys], options=options)
        assert retrieval is not None
        with retrieval:
            check_delivery(retrieval, match)
        assert match.tokens == CHUNKS * 16

    @property
    def ops(self) -> list[str]:
        return [message["op"] for message in self.said]

    @property
    def receivers(self) -> ProcessReceivers:
        assert self.cache._session is not None
        receivers = self.cache._session.receivers
        assert isinstance(receivers, ProcessReceivers)
        return receivers

    def nothing_is_kept(self) -> None:
        receivers = self.receivers
        eventually(lambda: not receivers._awaited, "all is fenced")
        assert sorted(receivers._slots) == list(range(SLOTS))
        assert not receivers._confirmed
        eventually(lambda: not receivers._boards.usage().in_use_bytes, "all boards are free")
        usage = self.cache.pool.usage
        eventually(lambda: not usage().in_use_bytes + usage().quarantined_bytes, "memory is free")


@pytest.fixture
def world(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with gateway.open(target="tcp", receiver="process", streams=4, receiver_processes=2) as cache:
        assert isinstance(cache, GatewayCache)
        yield World(cache, monkeypatch)


def test_all_of_it_matches(world: World) -> None:
    world.load()
    assert world.ops == ["foretell", "confirm"]
    assert "sizes" not in world.said[1]
    world.nothing_is_kept()


def test_a_prefix_of_it_matches(world: World) -> None:
    for _ in range(2 * SLOTS):
        world.load(LONGER)
    assert world.ops == ["foretell", "confirm"] * 2 * SLOTS
    assert world.said[-1]["sizes"] == [(CHUNKS, ())]
    world.nothing_is_kept()


def test_units_are_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_trip, "delivery_geometry", lambda shapes, units: delivery_geometry(shapes, 3))
    world.load()
    assert [message["layers_per_unit"] for message in world.said] == [3, 1]
    world.nothing_is_kept()


def test_nothing_matches(world: World) -> None:
    for seed in range(1, 2 * SLOTS):
        assert world.cache.match_and_retrieve(world.namespace, prompt(world.namespace, LONGER, seed=seed))[1] is None
    assert set(world.ops) == {"foretell"}
    world.nothing_is_kept()
    world.load()
    world.nothing_is_kept()


def test_it_is_refused_or_makes_no_sense(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(data: object) -> object:
        raise RequestError("not in any language")

    with monkeypatch.context() as patched:
        patched.setattr(MatchAndRetrieveAnswer, "decode", decode)
        for _ in range(2 * SLOTS):
            with pytest.raises(RequestError):
                world.cache.match_and_retrieve(world.namespace, world.chain)
    assert world.ops == ["foretell", "cancel"] * 2 * SLOTS
    world.nothing_is_kept()
    world.load()


def test_too_much_is_told_already(world: World) -> None:
    slots, world.receivers._slots = world.receivers._slots, []
    world.load()
    assert world.ops == ["expect"]
    world.receivers._slots = slots
    world.nothing_is_kept()


def test_another_chain_than_was_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    likely = whole_match(world.namespace, prompt(world.namespace, LONGER, seed=9), None)
    monkeypatch.setattr("objectcache.client.one_trip.whole_match", lambda *asked: likely)
    world.load()
    assert world.ops == ["foretell", "expect"]
    world.nothing_is_kept()


def test_a_process_dies_in_between(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    start, pid = GatewayHttp.start, world.receivers.pids[0]

    def killing(http: GatewayHttp, method: str, path: str, *args: Any, **how: Any) -> Any:
        answer = start(http, method, path, *args, **how)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return answer

    with monkeypatch.context() as patched, suppress(ObjectCacheError):
        patched.setattr(GatewayHttp, "start", killing)
        world.load()
    eventually(lambda: not world.cache.pool.usage().quarantined_bytes, "its memory is free")
    world.load()
    world.nothing_is_kept()


SHAPES = st.builds(
    lambda layers, size, chunks: PartShape(tuple(range(layers)), (size,) * layers, chunks),
    st.integers(1, 6),
    st.sampled_from([8, 64 << 10, 1 << 20, 5 << 20]),
    st.integers(1, 200),
)


@given(SHAPES, st.data())
def test_a_prefix_has_room_on_the_board_of_all(shape: PartShape, data: st.DataObject) -> None:
    told = DeliveryGeometry((shape,), data.draw(st.integers(1, 7)))
    prefix = PartShape(shape.layers, shape.slice_bytes, data.draw(st.integers(1, shape.num_chunks)))
    comes = DeliveryGeometry((prefix,), data.draw(st.integers(1, 7)))
    assert ArrivalBoard.size_bytes(comes, 3) <= ArrivalBoard.most_bytes(told, 3)
    assert comes.total_bytes <= told.total_bytes


@given(SHAPES, st.data())
def test_what_differs_makes_one_order_of_another(shape: PartShape, data: st.DataObject) -> None:
    chain = KeyChain(bytes(range(32)) * shape.num_chunks)
    told = Order(DeliveryGeometry((shape,), 1), [ExpectedPart(0, 1, chain)])
    assert Order.of(told.to_map()) == told
    count, units = data.draw(st.integers(1, shape.num_chunks)), data.draw(st.integers(1, 3))
    held = ((1, data.draw(st.integers(1, count))),)
    prefix = PartShape(shape.layers, shape.slice_bytes, count, data.draw(st.sampled_from([(), held])))
    parts = [ExpectedPart(0, 1, chain[:count])]
    news = told.difference(parts, [prefix], units)
    assert news is not None
    assert told.revised(news) == Order(DeliveryGeometry((prefix,), units), parts)
    assert told.difference([ExpectedPart(1, 1, chain[:count])], [prefix], units) is None
    with pytest.raises(DeliveryError):
        told.revised({"layers_per_unit": 1, "sizes": [(shape.num_chunks + 1, ())]})
