"""Levels of verification: what of damaged bytes is noticed, by threads and by a receiving process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache import ClientOptions
from objectcache.errors import ConfigError, GatewayUnavailableError, IntegrityError, ObjectCacheError
from objectcache.frames import PIECE, Frame, FrameType
from objectcache.integrity import LayerBinding
from objectcache.layout import DeliveryGeometry, PartShape
from objectcache.transports import Expected, ExpectedPart, Receiver
from objectcache.transports.verification import Verification
from tests.segments import random_chain

LAYERS, CHUNKS, SLICE_BYTES = 60, 2, 100
GEOMETRY = DeliveryGeometry((PartShape(tuple(range(LAYERS)), (SLICE_BYTES,) * LAYERS, CHUNKS),), 1)
KEYS = random_chain(1, CHUNKS)


def stream(damaged: set[int], *, pieces: bool) -> bytes:
    """A delivery on one stream; the layers in `damaged` are not what their digests say."""
    sent = b""
    for layer in range(LAYERS):
        data, binding = np.random.default_rng(layer).bytes(CHUNKS * SLICE_BYTES), LayerBinding(0, 0, layer)
        if pieces:
            digests = [binding.piece_digest(data, KEYS[-1], CHUNKS)]
        else:
            digests = [binding.slice_digest(data[at * SLICE_BYTES :][:SLICE_BYTES], KEYS[at]) for at in range(CHUNKS)]
        frame = Frame(
            FrameType.DATA,
            delivery=1,
            epoch=0,
            flags=PIECE if pieces else 0,
            extra=len(digests) - 1,
            layer=layer,
            num_chunks=CHUNKS,
            data_bytes=len(data),
            unit=layer,
            digest=digests[0],
        )
        if layer in damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        sent += frame.encode() + b"".join(digests[1:]) + data
    return sent + Frame(FrameType.END, 1, 0).encode()


def received(sent: bytes, verify: Verification, *, from_layer: int = 0) -> tuple[list[int], list[ObjectCacheError]]:
    """Layers that were announced, and what failed."""
    units: list[int] = []
    errors: list[ObjectCacheError] = []
    receiver = Receiver(verify)
    memory = memoryview(bytearray(GEOMETRY.total_bytes))
    part = ExpectedPart(0, 0, KEYS)
    receiver.expect(Expected(1, 0, GEOMETRY, [part], memory, 1, units.append, errors.append, lambda: None, from_layer))
    receiver.run(0, reading(sent), until_end_of=1)
    return units, errors


def reading(sent: bytes) -> Callable[[memoryview], None]:
    at = 0

    def recv_exact(out: memoryview) -> None:
        nonlocal at
        if at + len(out) > len(sent):
            raise GatewayUnavailableError("the end")
        out[:] = sent[at : at + len(out)]
        at += len(out)

    return recv_exact


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("damaged", [0, LAYERS // 2, LAYERS - 1])
def test_all_means_that_no_damaged_layer_is_announced(damaged: int, pieces: bool) -> None:
    units, errors = received(stream({damaged}, pieces=pieces), Verification("all"))
    assert units == list(range(damaged))
    assert [type(error) for error in errors] == [IntegrityError]


@pytest.mark.parametrize("pieces", [False, True])
def test_off_announces_whatever_arrives(pieces: bool) -> None:
    assert received(stream({0, 7}, pieces=pieces), Verification("off")) == (list(range(LAYERS)), [])


def test_sampled_checks_the_first_layer_always_and_some_of_the_others() -> None:
    hardly = Verification("sampled", fraction=1e-9)
    assert received(stream({0}, pieces=True), hardly)[0] == []
    assert received(stream(set(range(1, LAYERS)), pieces=True), hardly) == (list(range(LAYERS)), [])
    # With all others damaged, one in two is found long before the last.
    units, errors = received(stream(set(range(1, LAYERS)), pieces=True), Verification("sampled", fraction=0.5))
    assert 0 in units
    assert len(units) < LAYERS
    assert len(errors) == 1
    everything = Verification("sampled", fraction=1.0)
    assert received(stream({LAYERS - 1}, pieces=True), everything)[0] == list(range(LAYERS - 1))


@pytest.mark.parametrize("level", ["all", "sampled", "off"])
def test_what_is_whole_arrives_at_every_level(level: str) -> None:
    assert received(stream(set(), pieces=False), Verification(level)) == (list(range(LAYERS)), [])


@given(st.floats(min_value=1e-9, max_value=1.0), st.booleans())
def test_only_sampled_depends_on_chance(fraction: float, first_layer: bool) -> None:
    assert Verification("all", fraction).wants(first_layer=first_layer)
    assert not Verification("off", fraction).wants(first_layer=first_layer)
    assert Verification("sampled", fraction).wants(first_layer=True)


@pytest.mark.parametrize(
    "wrong", [{"verify": "some"}, {"verify": True}, {"verify_fraction": 0.0}, {"verify_fraction": 1.5}]
)
def test_options_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="verify"):
        ClientOptions(**wrong)  # type: ignore[arg-type]
