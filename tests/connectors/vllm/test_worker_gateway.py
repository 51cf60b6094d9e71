"""Workers beside a real gateway, that dies, comes back, or was never there."""

from __future__ import annotations

import os
import signal
import time

import pytest

from objectcache.connectors.vllm.messages import Orders, Stage
from objectcache.connectors.vllm.options import VllmOptions
from tests.connectors.vllm.workers import BLOCK_TOKENS, CACHES, NUM_BLOCKS, Worker, one_group, prompt_of
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, stopped

SLICE_BYTES = CACHES["flash"]().numel() * 2 // NUM_BLOCKS
DEADLINE_S = 1.0
BLOCKS, OTHERS = [1, 2, 3, 4], [11, 12, 13, 14]
TOKENS = 4 * BLOCK_TOKENS


def worker_of(url: str, target: str = "auto", deadline_s: float = DEADLINE_S) -> Worker:
    options = VllmOptions(
        url,
        advise=False,
        store_min_tokens=0,
        deadline_s=deadline_s,
        staging_bytes=64 << 20,
        saving_bytes=64 << 20,
        target=target,
    )
    return Worker(one_group(SLICE_BYTES), CACHES["flash"], options=options)


def kept(gateway: GatewayProcess) -> Worker:
    """One that has stored a prompt, and has other things in its blocks since."""
    worker = worker_of(gateway.url, deadline_s=10.0)
    worker.fill(1)
    worker.save(prompt_of(4), [BLOCKS])
    return worker


@pytest.mark.parametrize("target", ["shm", "tcp", "http"])
def test_what_one_worker_stored_another_loads(own_gateway: StartGateway, target: str) -> None:
    gateway = own_gateway()
    one = kept(gateway)
    one.close()
    gateway.restart()
    other = worker_of(gateway.url, target, deadline_s=10.0)
    other.fill(2)
    attempt = other.find(prompt_of(4))
    assert (other.stage(attempt), other.tokens(attempt)) == (Stage.STAGED, TOKENS)
    other.step(Orders(0, loads=(other.load(attempt, 0, TOKENS, [OTHERS]),), tokens=64))
    assert not other.failed
    for layer in one.names:
        assert [other.block(layer, there) for there in OTHERS] == [one.block(layer, here) for here in BLOCKS]
    rest = other.find(prompt_of(4), have=2 * BLOCK_TOKENS)
    assert other.stage(rest) is Stage.STAGED
    other.close()


def test_without_a_gateway_everything_is_missed(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    url = gateway.url
    gateway.kill()
    worker = worker_of(url)
    begin_s = time.monotonic()
    outcomes = []
    for _ in range(5):
        attempt = worker.find(prompt_of(4))
        outcomes.append((worker.stage(attempt), worker.progress[attempt][-1].reason))
    assert time.monotonic() - begin_s < DEADLINE_S
    assert outcomes[0] == (Stage.FAILED, "unavailable")
    assert (Stage.MISSED, "left_alone") in outcomes
    job = worker.save(prompt_of(4), [BLOCKS], wait=False)
    worker.run(lambda: worker.copied == [job])
    assert worker.stored == []
    gateway.start()
    worker.run(lambda: worker.progress[worker.find(prompt_of(4))][-1].reason == "not_stored")
    worker.close()


def test_a_gateway_that_does_not_answer_costs_its_deadline_once(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    kept(gateway).close()
    worker = worker_of(gateway.url)
    assert worker.stage(worker.find(prompt_of(4))) is Stage.STAGED
    with stopped(gateway.pid):
        begin_s = time.monotonic()
        attempt = worker.find(prompt_of(4))
        assert worker.stage(attempt) is Stage.FAILED
        assert time.monotonic() - begin_s < DEADLINE_S + 1
        begin_s = time.monotonic()
        attempts = [worker.look_up(prompt_of(4)) for _ in range(20)]
        worker.run(lambda: all(worker.stage(attempt) in (Stage.MISSED, Stage.FAILED) for attempt in attempts))
        assert time.monotonic() - begin_s < 2 * DEADLINE_S
        assert sum(worker.stage(attempt) is Stage.FAILED for attempt in attempts) <= 1, "but for one that tries"
    worker.run(lambda: worker.stage(worker.find(prompt_of(4))) is Stage.STAGED)
    worker.close()


def test_a_gateway_that_is_killed_in_mid_load_fails_that_load(own_gateway: StartGateway) -> None:
    gateway = own_gateway()
    kept(gateway).close()
    worker = worker_of(gateway.url, "tcp")
    worker.fill(2)
    assert worker.stage(worker.find(prompt_of(4))) is Stage.STAGED, "it knows the gateway"
    workers = gateway.worker_pids
    for pid in workers:  # so that nothing is sent
        os.kill(pid, signal.SIGSTOP)
    attempt = worker.look_up(prompt_of(4))
    time.sleep(0.2)
    worker.step()
    loads = (worker.load(attempt, 0, TOKENS, [OTHERS]),)
    gateway.kill()
    for pid in workers:  # stopped, they would not notice
        os.kill(pid, signal.SIGKILL)
    before = worker.everything()
    begin_s = time.monotonic()
    worker.step(Orders(0, loads=loads, tokens=64))
    assert time.monotonic() - begin_s < DEADLINE_S + 1
    assert (worker.failed, worker.failed_blocks) == ({attempt}, set(OTHERS))
    assert worker.everything() == before
    worker.close()
