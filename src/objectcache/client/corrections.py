"""What an engine learns of its windows while a delivery runs, told to the gateway without the engine waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from objectcache.client.http import GatewayHttp
from objectcache.errors import ObjectCacheError
from objectcache.messages import MAX_CORRECTIONS, WindowsBatch, WindowsRequest

LEAST_INTERVAL_S = 0.005
"""Between two requests: what is said meanwhile replaces what was said before."""


class _Correction(NamedTuple):
    http: GatewayHttp
    session: bytes
    epoch: int
    windows_s: tuple[float, ...]
    ready_s: float  # on time.monotonic


class WindowCorrections:
    """Sends the latest correction of each delivery, from a thread that starts with the first one.

    Nothing is said of failures: a correction that is lost costs a little of the schedule, nothing else.
    """

    def __init__(self, path: str) -> None:
        """`path` is where they are sent to."""
        self._path = path
        self._changed = threading.Condition()
        self._waiting: dict[int, _Correction] = {}
        self._closing = False
        self._thread: threading.Thread | None = None

    def put(
        self,
        http: GatewayHttp,
        session: bytes,
        delivery: int,
        epoch: int,
        windows_s: Sequence[float],
        ready_in_s: float,
    ) -> None:
        """Takes microseconds: it is called from an engine's forward."""
        correction = _Correction(http, session, epoch, tuple(windows_s), time.monotonic() + ready_in_s)
        with self._changed:
            if self._closing or (delivery not in self._waiting and len(self._waiting) >= MAX_CORRECTIONS):
                return
            self._waiting[delivery] = correction
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="correct-windows", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drop(self, delivery: int) -> None:
        """The delivery is over."""
        with self._changed:
            self._waiting.pop(delivery, None)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                waiting, self._waiting = self._waiting, {}
            for http in {id(one.http): one.http for one in waiting.values()}.values():
                self._send(http, {number: one for number, one in waiting.items() if one.http is http})
            with self._changed:
                self._changed.wait_for(lambda: self._closing, LEAST_INTERVAL_S)

    def _send(self, http: GatewayHttp, corrections: dict[int, _Correction]) -> None:
        now_s = time.monotonic()
        batch = WindowsBatch(
            tuple(
                WindowsRequest(one.session, number, one.epoch, one.windows_s, one.ready_s - now_s)
                for number, one in corrections.items()
            )
        )
        with suppress(ObjectCacheError):
            http.request("POST", self._path, batch.encode(), timeout_s=1.0)
