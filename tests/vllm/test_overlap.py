"""Layers are loaded while others are computed; and who loads nothing does not wait for who does."""

from __future__ import annotations

import pytest

from tests.gateway.fixtures import StartGateway
from tests.gateway.process import eventually
from tests.vllm.engines import Output, Run
from tests.vllm.pool import Taken
from tests.vllm.prompts import References, assert_hit, assert_same, full, tokens
from tests.vllm.stalling import stalled
from tests.vllm.stored import settle
from tests.vllm.support import extra

pytestmark = pytest.mark.timeout(180)

LAYERS = 4
PREFIX = 512
LAYER_BYTES = PREFIX * 2 * 4 * 64 * 4
"""Of the prefix, in the wide model: K and V, four heads of 64 numbers in float32."""
LAYER_S = 0.03


def test_computing_hides_all_layers_but_the_first(
    engine: Taken, references: References, own_gateway: StartGateway
) -> None:
    """The gateway sends one layer in 30 ms; with 480 new tokens the model takes longer than that to compute one."""
    gateway = own_gateway(bandwidth=f"{LAYER_BYTES / LAYER_S / 1e6:.0f}MB/s")
    prefix = tokens("wide", PREFIX)
    long, short = prefix + tokens("long", 480), prefix + tokens("short", 1)
    vllm = engine("wide-llama", extra(gateway.url, admission="at-once"))
    vllm.run([prefix])
    settle(vllm, gateway.url, more_than=0)
    late = vllm.run([short], max_tokens=1)
    assert_same(late, references("wide-llama", [short], max_tokens=1))
    assert_hit(late, full("wide-llama", PREFIX + 1))
    assert sum(_waits(late)) > 2 * LAYER_S, "nothing hides them: the layers do come late"
    hidden = vllm.run([long], max_tokens=1)
    assert_same(hidden, references("wide-llama", [long], max_tokens=1))
    assert_hit(hidden, PREFIX)
    waits = _waits(hidden)
    assert waits[0] < (LAYERS - 1) * LAYER_S, f"it waits for one layer, and not for all: {waits}"
    assert max(waits[1:]) < LAYER_S / 3, f"waits by layer: {waits}"


def _waits(run: Run) -> list[float]:
    """Of the first step, which loads, by layer."""
    assert len(run.waits) >= LAYERS
    assert len({layer for layer, _ in run.waits[:LAYERS]}) == LAYERS
    return [wait_s for _, wait_s in run.waits[:LAYERS]]


def test_decodes_go_on_beside_a_stalled_store(engine: Taken, references: References, own_gateway: StartGateway) -> None:
    """Loosely: what it costs is measured by `objectcache bench vllm`."""
    gateway = own_gateway()
    decoding, stored = tokens("decoding", 60), tokens("stored", 320)
    vllm = engine("llama", extra(gateway.url, deadline_s=0.5))
    vllm.run([stored])
    settle(vllm, gateway.url, more_than=0)
    plain = engine("llama").run([decoding, stored], max_tokens=300, arrive_s=[0.0, 0.3])
    with stalled(gateway):
        run = vllm.run([decoding, stored], max_tokens=300, arrive_s=[0.0, 0.3])
    assert_same(run, plain.outputs)
    assert run.loaded == 0
    assert run.outputs[0] is not None
    assert plain.outputs[0] is not None
    assert _p99_s(run.outputs[0]) < 1.5 * _p99_s(plain.outputs[0]) + 0.02
    eventually(lambda: vllm.run([stored]).loaded == full("llama", 320), "once it goes on, it is used again")


def _p99_s(output: Output) -> float:
    """Between two tokens."""
    gaps = sorted(later - earlier for earlier, later in zip(output.times_s, output.times_s[1:], strict=False))
    return gaps[len(gaps) * 99 // 100]
