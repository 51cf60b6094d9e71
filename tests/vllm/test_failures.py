"""Whatever fails, vLLM with the connector says what it says without, and soon."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from objectcache.bench.guarding import free_ports
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, eventually
from tests.vllm.engines import Engine
from tests.vllm.pool import Taken
from tests.vllm.prompts import References, assert_same, full, tokens
from tests.vllm.stalling import stalled
from tests.vllm.stored import settle
from tests.vllm.support import CACHED_MODELS, DEADLINE_S, MODELS, VLLM, extra

pytestmark = pytest.mark.timeout(180)

SLOW = {"llama": "2Mbps", "gemma3": "2Mbps", "deepseek2": "32Mbps"}
"""Some 400 tokens of the tiny models take seconds to arrive, and a layer of them less than the deadline."""
HARDLY_S = 3.0
"""What else a run of tiny models takes at most, on a machine where much runs."""
ADMITTED = [("llama", admission) for admission in ("in-time", "at-once", "whole")]
ADMITTED += [(model, "in-time") for model in CACHED_MODELS if model != "llama"]


def _stored(vllm: Engine, gateway: GatewayProcess, asked: list[list[int]]) -> None:
    vllm.run(asked)
    settle(vllm, gateway.url, more_than=0)


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_corrupted_segment(model: str, engine: Taken, references: References, own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    asked = [tokens(f"damaged {model}", 320)]
    vllm = engine(model, extra(gateway.url))
    _stored(vllm, gateway, asked)
    assert gateway.segments
    for path in gateway.segments:
        _damage(path)
    run = vllm.run(asked)
    assert_same(run, references(model, asked))
    assert run.of("failures") + run.of("misses") > 0, "nothing was noticed"
    eventually(lambda: _hits_again(vllm, asked, full(model, 320)), "what was damaged is stored anew")


def _damage(path: Path) -> None:
    """Bytes of the last layers are others."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for part in range(1, 20):
            file.seek(size - size * part // 64)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 0x55]))


def _hits_again(vllm: Engine, asked: list[list[int]], count: int) -> bool:
    hit = vllm.run(asked)
    vllm.settle()
    time.sleep(0.3)
    return hit.loaded == count


@pytest.mark.parametrize(("model", "admission"), ADMITTED)
def test_gateway_killed_in_mid_load(
    model: str, admission: str, engine: Taken, references: References, own_gateway: StartGateway
) -> None:
    gateway = own_gateway(bandwidth=SLOW[model])
    asked = [tokens(f"killed {model}", 400)]
    vllm = engine(model, extra(gateway.url, admission=admission))
    _stored(vllm, gateway, asked)
    vllm.begin_run(asked)
    eventually(lambda: gateway.metric("objectcache_deliveries_running") > 0, "the prefix is on its way")
    time.sleep(0.3)
    gateway.kill()
    run = vllm.end_run()
    assert_same(run, references(model, asked))
    assert run.seconds < DEADLINE_S + HARDLY_S
    if admission != "whole" or VLLM >= (0, 29):
        assert run.of("failures") + run.of("misses") > 0, "all of it came"
    gateway.start()
    eventually(lambda: vllm.run(asked).loaded == full(model, 400), "it is found again")


@pytest.mark.parametrize(("model", "admission"), ADMITTED)
def test_gateway_stalls_in_mid_load(
    model: str, admission: str, engine: Taken, references: References, own_gateway: StartGateway
) -> None:
    gateway = own_gateway(bandwidth=SLOW[model])
    asked = [tokens(f"stalled {model}", 400)]
    vllm = engine(model, extra(gateway.url, admission=admission, deadline_s=0.5))
    _stored(vllm, gateway, asked)
    vllm.begin_run(asked)
    eventually(lambda: gateway.metric("objectcache_deliveries_running") > 0, "the prefix is on its way")
    time.sleep(0.3)
    with stalled(gateway):
        run = vllm.end_run()
    assert_same(run, references(model, asked))
    assert run.seconds < 0.5 + 0.3 + HARDLY_S
    if admission != "whole" or VLLM >= (0, 29):
        assert run.of("failures") + run.of("misses") > 0, "all of it came"


@pytest.mark.parametrize("model", MODELS)
def test_gateway_absent_from_the_start(model: str, engine: Taken, references: References, tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path / "late")
    gateway.port = free_ports(1)
    asked = [tokens(f"absent {model} {i}", 200) for i in range(4)]
    vllm = engine(model, extra(gateway.url))
    for prompt in asked:
        run = vllm.run([prompt])
        assert_same(run, references(model, [prompt]))
        assert run.seconds < DEADLINE_S + HARDLY_S
    if model not in CACHED_MODELS:
        return
    gateway.start()
    try:
        eventually(lambda: _hits_again(vllm, asked[:1], full(model, 200)), "a gateway that came late is used")
    finally:
        gateway.kill()


@pytest.mark.parametrize(("model", "admission"), ADMITTED)
def test_abort_in_mid_load(
    model: str, admission: str, engine: Taken, references: References, own_gateway: StartGateway
) -> None:
    gateway = own_gateway(bandwidth=SLOW[model])
    asked = [tokens(f"given up {model} {i}", 300) for i in range(3)]
    vllm = engine(model, extra(gateway.url, admission=admission, deadline_s=5.0))
    free = vllm.ask("free_blocks")
    _stored(vllm, gateway, asked)
    expected = references(model, asked)
    run = vllm.run(asked, abort=[1], abort_after_s=0.4)
    assert run.outputs[1] is None
    assert_same(run, [expected[0], None, expected[2]])
    assert run.of("hits") >= 2
    others = [tokens(f"then {model} {i}", 300) for i in range(3)]
    assert_same(vllm.run(others), references(model, others))
    vllm.settle()
    assert vllm.ask("free_blocks") == free
    assert_same(vllm.run(asked), expected)
