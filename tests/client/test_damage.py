"""Segments that were damaged where they are stored: never wrong bytes, and not the same failure for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from objectcache.cache import KVCache
from objectcache.errors import ObjectCacheError
from objectcache.keys import KeyChain, Namespace
from objectcache.testing.synthetic import LAYERWISE, check_layer, flat_layout, new_namespace, prompt, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, eventually

LAYERS, SLICE_BYTES, CHUNKS = 8, 100_000, 32
LAYOUT = flat_layout(LAYERS, SLICE_BYTES)
LAYER_BYTES = SLICE_BYTES * CHUNKS


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def flip_data(path: Path) -> None:
    flip(path, path.stat().st_size - LAYER_BYTES // 2)  # in the last layer


def flip_digest_row(path: Path) -> None:
    """The row of the last layer ends where its slices begin."""
    end = path.stat().st_size
    header_and_footer = 4096
    begin = end - LAYER_BYTES - header_and_footer
    aligned = -(-begin // 4096) * 4096
    flip(path, aligned - 8)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def delete(path: Path) -> None:
    path.unlink()


def the_segment(gateway: GatewayProcess) -> Path:
    (path,) = (path for path in gateway.objects.rglob("*.obj") if path.stat().st_size > LAYER_BYTES)
    return path


def failing(cache: KVCache, namespace: Namespace, chain: KeyChain) -> bool:
    """Whether a retrieval of what matches fails. Whatever lands is right."""
    match = cache.match(namespace, chain)
    if not match.tokens:
        return False
    try:
        with cache.retrieve(match, options=LAYERWISE) as retrieval:
            for unit in retrieval:
                for layer in unit.layers:
                    check_layer(retrieval, match.parts, layer)
    except ObjectCacheError:
        return True
    return False


@pytest.mark.parametrize("target", ["tcp", "http"])
@pytest.mark.parametrize("damage", [flip_data, flip_digest_row, truncate, delete])
def test_damage_is_an_error_and_then_a_miss(
    own_gateway: StartGateway, damage: Callable[[Path], None], target: str
) -> None:
    gateway = own_gateway()
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    with gateway.open(target=target) as cache:
        store_parts(cache, namespace, chain)
        damage(the_segment(gateway))
        assert failing(cache, namespace, chain)
        eventually(lambda: cache.match(namespace, chain).tokens == 0, "it is forgotten", within_s=15)
        assert not failing(cache, namespace, chain)
        store_parts(cache, namespace, chain)
        assert cache.match(namespace, chain).tokens == CHUNKS * LAYOUT.key_tokens
        assert not failing(cache, namespace, chain)
    assert gateway.metric("objectcache_core_forgotten") == 1
    assert "Traceback" not in gateway.log


def test_a_report_is_not_believed(own_gateway: StartGateway) -> None:
    """It names all segments of a delivery; the gateway looks for itself, and forgets only the one that is damaged."""
    gateway = own_gateway()
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS + 1)
    with gateway.open() as cache:
        store_parts(cache, namespace, chain, cuts=[1])
        flip_data(the_segment(gateway))
        assert failing(cache, namespace, chain)
        eventually(lambda: cache.match(namespace, chain).tokens == LAYOUT.key_tokens, "the damaged one is forgotten")
        assert not failing(cache, namespace, chain)
    assert gateway.metric("objectcache_core_forgotten") == 1
