"""Rates of deliveries that several workers send: kept in sum."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from objectcache.cache import Match
from tests.gateway.arrivals import Arrivals, make, off_by, set_caps
from tests.gateway.process import GatewayProcess
from tests.gateway.test_pacing import PREFIX_BYTES, RATE_BYTES_S, cap, match, stored, uncapped, within

__all__ = ["match", "stored", "uncapped"]

pytestmark = pytest.mark.timing

TARGETS = ("tcp", "shm")


@pytest.fixture(scope="module", params=[2, 4], ids=["2 workers", "4 workers"])
def paced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    running = make(tmp_path_factory.mktemp("paced"), workers=request.param, workers_per_session=request.param)
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("more", [0, 1], ids=["a stream each", "one has two"])
def test_all_together_keep_the_rate(uncapped: GatewayProcess, match: Match, target: str, more: int) -> None:
    cap(uncapped, gateway=RATE_BYTES_S)
    streams = len(uncapped.worker_pids) + more

    def attempt() -> float:
        with uncapped.open(target=target, streams=streams, buffer_bytes=2 * PREFIX_BYTES) as cache:
            arrivals = Arrivals(cache, match)
            arrivals.wait()
            arrivals.close()
        return off_by(arrivals.rates(), RATE_BYTES_S)

    within(0.05, attempt)


@pytest.mark.parametrize("target", TARGETS)
def test_all_pause_and_go_on(uncapped: GatewayProcess, match: Match, target: str) -> None:
    cap(uncapped, gateway=2 * RATE_BYTES_S)
    with uncapped.open(target=target, streams=len(uncapped.worker_pids), buffer_bytes=2 * PREFIX_BYTES) as cache:
        arrivals = Arrivals(cache, match)
        time.sleep(0.05)
        set_caps(uncapped, gateway=0)
        arrivals.settle()
        paused_s = time.monotonic()
        time.sleep(0.15)
        resumed_s = time.monotonic()
        set_caps(uncapped, gateway=None)
        arrivals.wait()
        arrivals.close()
    meanwhile = {count for when_s, count in arrivals.samples if paused_s <= when_s <= resumed_s}
    assert len(meanwhile) == 1
    assert meanwhile.pop() < PREFIX_BYTES == arrivals.samples[-1][1]
