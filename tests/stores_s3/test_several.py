"""Several processes' caches straight over one bucket, with no other state in common."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import objectcache
from objectcache.cache.directory import open_beside
from objectcache.cache.local import LocalCache
from objectcache.stores import open_store
from objectcache.testing.far import LatencyStore
from tests.gateway.process import GatewayProcess
from tests.services import S3Service
from tests.several import AGREE_S, SECONDS, Several
from tests.several_child import ChildParticipant
from tests.stores_s3.gateways import gateway_over

pytestmark = pytest.mark.timeout(120 + 3 * SECONDS)
SKEW_S = 86_400.0


def test_several_caches_on_one_bucket(service: S3Service, tmp_path: Path) -> None:
    url = f"s3://{service.make_bucket()}/several?endpoint={service.endpoint}"
    with open_store(url) as behind:
        several = Several(
            {
                # Two processes of one machine share a folder, the third is elsewhere.
                name: partial(objectcache.open, url, state_dir=tmp_path / machine)
                for name, machine in (("a1", "a"), ("a2", "a"), ("b", "b"))
            },
            behind,
            seed=1,
        )
        try:
            several.run(SECONDS)
        finally:
            several.close()
    assert several.counts["store"]
    assert several.counts["read"]


def open_direct(url: str, folder: Path) -> LocalCache:
    """For which the store's clock is a day ahead."""
    return LocalCache(open_beside(LatencyStore(open_store(url), skew_s=SKEW_S), folder))


def test_two_gateways_and_a_direct_engine_on_one_bucket(rgw: S3Service, tmp_path: Path) -> None:
    """All of them are killed now and then."""
    store = f"s3://{rgw.make_bucket()}?endpoint={rgw.endpoint}"
    url = store.replace("?", "/kvcache?")
    gateways = {name: gateway_over(store, tmp_path / name, attach_s=5.0).start() for name in ("gateway a", "gateway b")}
    try:
        with open_store(url) as behind:
            killing = threading.Lock()
            several = Several(
                {name: partial(gateway.open, streams=2) for name, gateway in gateways.items()},
                behind,
                seed=2,
                mortal=gateways.keys(),
                misfortunes=(misfortunes := []),
            )
            direct = ChildParticipant("direct", partial(open_direct, url, tmp_path / "direct"), several, seed=2)
            several.participants.append(direct)

            def kill(name: str, how: Callable[[], None]) -> None:
                with killing:
                    several.count(f"{name} killed")
                    how()

            def restart(gateway: GatewayProcess) -> None:
                gateway.kill()
                gateway.start()

            misfortunes += [partial(kill, name, partial(restart, gateway)) for name, gateway in gateways.items()]
            misfortunes.append(partial(kill, "direct", direct.kill))
            try:
                several.run(SECONDS, round_s=8.0 if SECONDS else 3.0)
            finally:
                several.close()
                report(several)
        for gateway in gateways.values():
            assert "Traceback" not in gateway.log
    finally:
        for gateway in gateways.values():
            gateway.kill()
    assert several.counts["store"]
    assert several.counts["read"]
    assert SECONDS == 0 or max(several.agreed_after_s) <= AGREE_S


def report(several: Several) -> None:
    """What a long run is for."""
    times_s = sorted(several.agreed_after_s)
    if times_s:
        print(dict(several.counts))
        print(f"agreed {len(times_s)} times, after p50 {times_s[len(times_s) // 2]:.2f}, at most {times_s[-1]:.2f} s")
