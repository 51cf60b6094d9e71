"""Large layers over every target: told of section by section, each verified, and nothing of one that is damaged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from objectcache.client import GatewayCache
from objectcache.errors import IntegrityError, ObjectCacheError
from objectcache.layout import Chunks
from objectcache.testing.synthetic import LAYERWISE, expected_layer, flat_layout, new_namespace, prompt, store_parts
from tests.client.test_damage import flip
from tests.gateway.process import GatewayProcess

LAYERS, CHUNKS, SLICE_BYTES = 2, 72, 256 << 10  # 18 MiB a layer: three sections
LAYOUT = flat_layout(LAYERS, SLICE_BYTES)


@pytest.fixture(params=["shm", "tcp", "http", "process"])
def cache(gateway: GatewayProcess, request: pytest.FixtureRequest) -> Iterator[GatewayCache]:
    process = request.param == "process"
    target = {"target": "tcp", "receiver": "process", "receiver_processes": 2} if process else {"target": request.param}
    with gateway.open(**target, streams=4, buffer_bytes=64 << 20) as opened:
        assert isinstance(opened, GatewayCache)
        yield opened


def test_each_section_is_right_when_it_is_told(cache: GatewayCache) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    store_parts(cache, namespace, chain, cuts=[31])
    match = cache.match(namespace, chain)
    for _ in range(3):
        with cache.retrieve(match, options=LAYERWISE) as retrieval:
            told = []
            for chunks in retrieval.follow():
                (slices,) = retrieval.blocks(chunks.layer, chunks.part, chunks.first, chunks.stop)
                expected = expected_layer(match.parts[0], chunks.layer)[chunks.first : chunks.stop]
                assert np.array_equal(slices, expected)
                told.append(chunks)
            assert retrieval.complete
        assert sorted(told) == [
            Chunks(0, layer, *run) for layer in range(LAYERS) for run in ((0, 36), (36, 56), (56, 72))
        ]


def test_what_is_damaged_is_in_no_section(gateway: GatewayProcess, cache: GatewayCache) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    before = gateway.segments
    store_parts(cache, namespace, chain)
    (path,) = gateway.segments - before
    flip(path, path.stat().st_size - 10 * SLICE_BYTES)  # in the last section of the last layer
    match = cache.match(namespace, chain)
    told: list[Chunks] = []
    with cache.retrieve(match, options=LAYERWISE) as retrieval:
        with pytest.raises(ObjectCacheError) as raised:
            told += retrieval.follow()
        with pytest.raises(type(raised.value)):
            retrieval.wait(LAYERS - 1)
    assert isinstance(raised.value, IntegrityError)
    assert all(chunks.layer == 0 or chunks.stop <= 56 for chunks in told)
