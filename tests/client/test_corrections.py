"""Corrections of windows: the latest of each delivery, few requests, and nothing that an engine waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from objectcache.client.corrections import LEAST_INTERVAL_S, WindowCorrections
from objectcache.client.http import GatewayHttp
from objectcache.errors import GatewayUnavailableError
from objectcache.messages import WindowsBatch, WindowsRequest
from tests.gateway.process import eventually

SESSION = bytes(16)


class Gateway:
    """What was sent; `go` holds requests back, `fails` answers none."""

    def __init__(self) -> None:
        self.batches: list[tuple[WindowsRequest, ...]] = []
        self.go = threading.Event()
        self.go.set()
        self.fails = False

    def request(self, method: str, path: str, body: bytes, *, timeout_s: float) -> bytes:
        assert (method, path) == ("POST", "/bucket?kv-windows")
        assert timeout_s <= 1
        self.batches.append(WindowsBatch.decode(body).corrections)
        self.go.wait(30)
        if self.fails:
            raise GatewayUnavailableError("gone")
        return b""

    @property
    def http(self) -> GatewayHttp:
        return cast(GatewayHttp, self)


@pytest.fixture
def corrections() -> Iterator[WindowCorrections]:
    opened = WindowCorrections("/bucket?kv-windows")
    yield opened
    opened.close()


def test_the_latest_is_sent(corrections: WindowCorrections) -> None:
    gateway = Gateway()
    gateway.go.clear()
    corrections.put(gateway.http, SESSION, 1, 7, (0.5,) * 3, -0.25)
    eventually(lambda: len(gateway.batches) == 1, "the first is on its way")
    start_s = time.perf_counter()
    for turn in range(100):
        corrections.put(gateway.http, SESSION, 1, 7, (turn / 1000,) * 3, -0.25)
        corrections.put(gateway.http, SESSION, 2, 0, (1.0,), 2.0)
    corrections.put(gateway.http, SESSION, 3, 0, (1.0,), 0.0)
    corrections.drop(3)
    assert time.perf_counter() - start_s < 1  # nobody waits for a gateway
    time.sleep(0.1)
    gateway.go.set()
    eventually(lambda: len(gateway.batches) == 2, "the rest was sent")
    (first,), rest = gateway.batches
    assert (first.session, first.delivery, first.epoch, first.windows_s) == (SESSION, 1, 7, (0.5,) * 3)
    assert [one.delivery for one in rest] == [1, 2]
    assert rest[0].windows_s == (0.099,) * 3
    # What lay for a while is told as of when it is sent.
    assert -20 < rest[0].ready_in_s <= -0.35
    assert rest[1].ready_in_s <= 1.9


def test_requests_are_few(corrections: WindowCorrections) -> None:
    gateway = Gateway()
    start_s = time.perf_counter()
    while time.perf_counter() - start_s < 10 * LEAST_INTERVAL_S:
        corrections.put(gateway.http, SESSION, 1, 0, (1.0,), 0.0)
        time.sleep(0.0002)
    assert 1 <= len(gateway.batches) <= 1 + (time.perf_counter() - start_s) / LEAST_INTERVAL_S


def test_failures_are_nobodys_business(corrections: WindowCorrections) -> None:
    gateway, other = Gateway(), Gateway()
    gateway.fails = True
    corrections.put(gateway.http, SESSION, 1, 0, (1.0,), 0.0)
    eventually(lambda: len(gateway.batches) == 1, "it was tried")
    corrections.put(gateway.http, SESSION, 1, 0, (2.0,), 0.0)
    corrections.put(other.http, b"", 2, 0, (3.0,), 0.0)
    eventually(lambda: len(other.batches) == 1, "others go on")
    assert [one.delivery for one in other.batches[0]] == [2]
    corrections.close()
    corrections.put(gateway.http, SESSION, 1, 0, (2.0,), 0.0)
    assert len(gateway.batches) == 2
