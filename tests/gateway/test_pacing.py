"""Rates, seen where deliveries arrive: kept, changed, shared, and outliving the process that sets them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from objectcache.cache import Match
from objectcache.client.cache import GatewayCache
from objectcache.messages import WindowsBatch, WindowsRequest
from tests.gateway.arrivals import LAYERS, Arrivals, make, off_by, set_caps, store_prefix
from tests.gateway.process import BUCKET, GatewayProcess, children_of, eventually

pytestmark = pytest.mark.timing

MIB = 1 << 20
RATE_BYTES_S = 1e8
PREFIX_BYTES = 32 * MIB
TARGETS = ("http", "tcp", "shm")
TRIES = 4
LOOSELY = 10.0
"""How much more a rate may be off by on a machine so busy that threads wake late: unpaced it would be far more."""
WAKES_LATE_S = 0.001


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    running = make(tmp_path_factory.mktemp("paced"))
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def stored(paced: GatewayProcess) -> Match:
    return store_prefix(paced, PREFIX_BYTES)


@pytest.fixture
def match(paced: GatewayProcess, stored: Match) -> Match:
    """Anew for each test: all of them may take longer than a lease lasts."""
    with paced.open() as cache:
        return cache.match(stored.namespace, stored.parts[0].keys)


@pytest.fixture
def uncapped(paced: GatewayProcess) -> Iterator[GatewayProcess]:
    yield paced
    shown = json.loads(paced.ask("GET", "/?kv-bandwidth").body)
    set_caps(paced, **dict.fromkeys(shown["caps"]))


def decided(gateway: GatewayProcess) -> bool:
    """The rates process is there."""
    before = gateway.metric("objectcache_rates_decisions")
    time.sleep(0.3)
    return gateway.metric("objectcache_rates_decisions") > before


def cap(of: GatewayProcess, **caps: Any) -> None:
    set_caps(of, **caps)
    eventually(lambda: decided(of), "the rates process decides")


def within(tolerance: float, attempt: Callable[[], float]) -> None:
    """`attempt()` is by how much something misses: in one of some tries no more than `tolerance`."""
    misses: list[float] = []
    with Wakings() as wakings:
        while len(misses) < TRIES and (not misses or min(misses) > tolerance):
            misses.append(attempt())
    if min(misses) > tolerance:
        assert wakings.late_s > WAKES_LATE_S, f"off by {misses} on a machine that is not busy"
        assert min(misses) < LOOSELY * tolerance, f"off by {misses}"


class Wakings:
    """Looks how late a thread wakes here, while the context lasts."""

    def __enter__(self) -> Self:
        self._overslept_s: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.is_set():
            began_s = time.monotonic()
            time.sleep(0.001)
            self._overslept_s.append(time.monotonic() - began_s - 0.001)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def late_s(self) -> float:
        """What one in twenty exceeded."""
        return sorted(self._overslept_s)[-len(self._overslept_s) // 20]


@pytest.mark.parametrize("target", TARGETS)
def test_a_delivery_keeps_its_rate(uncapped: GatewayProcess, match: Match, target: str) -> None:
    cap(uncapped, gateway=RATE_BYTES_S)

    def attempt() -> float:
        with uncapped.open(target=target, buffer_bytes=2 * PREFIX_BYTES) as cache:
            arrivals = Arrivals(cache, match)
            arrivals.wait()
            arrivals.close()
        return off_by(arrivals.rates(), RATE_BYTES_S)

    within(0.05, attempt)


@pytest.mark.parametrize("target", TARGETS)
def test_a_delivery_pauses_and_goes_on(uncapped: GatewayProcess, match: Match, target: str) -> None:
    cap(uncapped, gateway=2 * RATE_BYTES_S)
    with uncapped.open(target=target, buffer_bytes=2 * PREFIX_BYTES) as cache:
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


def test_a_paused_delivery_can_be_cancelled(uncapped: GatewayProcess, match: Match) -> None:
    for target in TARGETS:
        with uncapped.open(target=target, buffer_bytes=PREFIX_BYTES + MIB) as cache:
            assert isinstance(cache, GatewayCache)
            pool = cache.pool
            set_caps(uncapped, gateway=RATE_BYTES_S)
            arrivals = Arrivals(cache, match)
            time.sleep(0.03)
            set_caps(uncapped, gateway=0)
            time.sleep(0.03)
            arrivals.close()
            eventually(lambda: pool.usage().quarantined_bytes == 0, "its memory comes back")  # noqa: B023
    eventually(lambda: uncapped.metric("objectcache_deliveries_running") == 0, "all deliveries end")


def test_a_rate_changes_within_10_ms(uncapped: GatewayProcess, match: Match) -> None:
    cap(uncapped, gateway=RATE_BYTES_S / 2)

    def attempt() -> float:
        set_caps(uncapped, gateway=RATE_BYTES_S / 2)
        with uncapped.open(target="tcp", buffer_bytes=2 * PREFIX_BYTES) as cache:
            arrivals = Arrivals(cache, match)
            time.sleep(0.2)
            asked_s = time.monotonic()
            set_caps(uncapped, gateway=2 * RATE_BYTES_S)
            arrivals.wait()
            arrivals.close()
        # Where the line after the change meets the one before it.
        before, after = arrivals.at(asked_s), arrivals.at(asked_s + 0.06)
        return asked_s + 0.06 - (after - before - RATE_BYTES_S / 2 * 0.06) / (1.5 * RATE_BYTES_S) - asked_s

    within(0.010, attempt)


def test_sessions_share_a_cap(uncapped: GatewayProcess, match: Match) -> None:
    cap(uncapped, gateway=2 * RATE_BYTES_S)

    def attempt() -> float:
        with ExitStack() as stack:
            caches = [
                stack.enter_context(uncapped.open(target=target, buffer_bytes=2 * PREFIX_BYTES)) for target in TARGETS
            ]
            running = [Arrivals(cache, match) for cache in caches]
            for arrivals in running:
                arrivals.wait()
                arrivals.close()
        began_s = max(next(when for when, count in arrivals.samples if count) for arrivals in running) + 0.02
        rates = [arrivals.rates(began_s, began_s + 0.26) for arrivals in running]
        in_all = [sum(some) for some in zip(*rates, strict=True)]
        fair = 2 * RATE_BYTES_S / len(running)
        return max(off_by(in_all, 2 * RATE_BYTES_S), *(off_by(some, fair) for some in rates))

    within(0.07, attempt)


def test_the_rates_process_may_die(uncapped: GatewayProcess, match: Match) -> None:
    cap(uncapped, gateway=RATE_BYTES_S)
    workers = set(uncapped.worker_pids)

    def rates_pid() -> int:
        """The one that is told of the board."""
        found = [pid for pid in children_of(uncapped.pid) if b"workers.rates" in command_of(pid)]
        return found[0] if found else 0

    before = rates_pid()
    assert before in workers
    with uncapped.open(target="tcp", buffer_bytes=2 * PREFIX_BYTES) as cache:
        arrivals = Arrivals(cache, match)
        time.sleep(0.05)
        os.kill(before, signal.SIGKILL)
        arrivals.wait()
        arrivals.close()
        took_s = arrivals.samples[-1][0] - arrivals.samples[0][0]
    assert took_s > 0.9 * PREFIX_BYTES / RATE_BYTES_S  # it went on, and not faster
    eventually(lambda: rates_pid() not in (0, before), "another rates process")
    eventually(lambda: decided(uncapped), "it decides")


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def test_nothing_runs_without_a_cap_and_nothing_is_left_behind(tmp_path: Path) -> None:
    gateway = make(tmp_path)
    workers = children_of(gateway.pid)
    assert len(workers) == 1
    set_caps(gateway, gateway=RATE_BYTES_S)
    assert len(children_of(gateway.pid)) == 2
    set_caps(gateway, gateway=None)
    eventually(lambda: children_of(gateway.pid) == workers, "the rates process has ended")
    set_caps(gateway, gateway=RATE_BYTES_S)
    children = children_of(gateway.pid)
    gateway.kill()
    eventually(lambda: not any(command_of(child) for child in children), "all of its processes have ended")


def test_a_match_and_an_answer_tell_the_rate_to_expect(uncapped: GatewayProcess, match: Match) -> None:
    with uncapped.open(target="tcp", buffer_bytes=4 * PREFIX_BYTES) as cache:
        free = cache.match(match.namespace, match.parts[0].keys)
        assert free.lease is not None
        assert free.lease.rate_bytes_s is None
        with cache.retrieve(free) as retrieval:
            assert retrieval.rate_bytes_s is None
        both, at_once = cache.match_and_retrieve(match.namespace, match.parts[0].keys)
        assert both.lease is not None
        assert at_once is not None
        with at_once:
            assert (both.lease.rate_bytes_s, at_once.rate_bytes_s) == (None, None)
        cap(uncapped, gateway=RATE_BYTES_S)
        alone = cache.match(match.namespace, match.parts[0].keys)
        assert alone.lease is not None
        assert alone.lease.rate_bytes_s == RATE_BYTES_S
        arrivals = Arrivals(cache, match)
        shared = cache.match(match.namespace, match.parts[0].keys)
        assert shared.lease is not None
        assert shared.lease.rate_bytes_s == pytest.approx(RATE_BYTES_S / 2)
        arrivals.close()


@pytest.mark.parametrize("target", TARGETS)
def test_windows_are_corrected_of_what_runs(uncapped: GatewayProcess, match: Match, target: str) -> None:
    cap(uncapped, gateway=RATE_BYTES_S)
    before = uncapped.metric("objectcache_windows_corrected")
    with uncapped.open(target=target, buffer_bytes=2 * PREFIX_BYTES) as cache:
        assert isinstance(cache, GatewayCache)
        arrivals = Arrivals(cache, match)
        number = next(copy(cache._deliveries)) - 1
        session = b"" if cache._session is None else cache._session.id
        right = WindowsRequest(session, number, 0, (0.01,) * LAYERS, -0.1)
        others = (replace(right, delivery=number + 1), replace(right, epoch=1), replace(right, session=bytes(16)))
        body = WindowsBatch((*others, right)).encode()
        assert uncapped.ask("POST", f"/{BUCKET}?kv-windows", body).status == 204
        assert uncapped.metric("objectcache_windows_corrected") == before + 1
        arrivals.wait()
        arrivals.close()
        eventually(lambda: uncapped.metric("objectcache_deliveries_running") == 0, "it has ended")
        assert uncapped.ask("POST", f"/{BUCKET}?kv-windows", body).status == 204
        assert uncapped.metric("objectcache_windows_corrected") == before + 1


def test_windows_of_what_does_not_run_are_passed_over(paced: GatewayProcess) -> None:
    body = WindowsBatch((WindowsRequest(bytes(16), 1, 0, (0.1,), 0.0), WindowsRequest(b"", 2, 0, (), -1.0))).encode()
    assert paced.ask("POST", f"/{BUCKET}?kv-windows", body).status == 204
    assert paced.ask("POST", f"/{BUCKET}?kv-windows", b"\x80").error["Code"] == "InvalidRequest"


@pytest.mark.parametrize(
    "asked",
    [
        b"[]",
        b"{",
        b'{"speed": 1}',
        b'{"caps": {"gateway": "fast"}}',
        b'{"caps": {"gateway": -1}}',
        b'{"caps": {"nowhere": 1}}',
        b'{"policy": "luck"}',
        b'{"weights": {"a": 0}}',
        b'{"weights": {"a": 1e999}}',
        b'{"weights": {"\\ud800": 1}}',
        b'{"caps": {"client:\\ud800": 1}}',
    ],
    ids=lambda asked: asked.decode(),
)
def test_what_cannot_be_set_is_refused(paced: GatewayProcess, asked: bytes) -> None:
    assert paced.ask("POST", "/?kv-bandwidth", asked).status == 400


def test_only_who_administers_all_buckets_sees_and_sets_caps(tmp_path: Path) -> None:
    gateway = make(tmp_path, anonymous="write")
    try:
        assert gateway.ask("GET", "/?kv-bandwidth").status == 403
        assert gateway.ask("POST", "/?kv-bandwidth", b'{"caps": {"gateway": 1}}').status == 403
        assert len(children_of(gateway.pid)) == 1
    finally:
        gateway.kill()
