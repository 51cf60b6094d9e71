"""A data worker: blocking system calls that move megabytes, in a process without an event loop.

`python -m objectcache.workers.process FD` serves the control process at the other end of the Unix socket FD, and ends
with it.
"""

from __future__ import annotations

import errno
import logging
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from objectcache.workers.answering import Answering, Order, WorkerStores, in_thread
from objectcache.workers.channel import BlockingChannel
from objectcache.workers.deliveries import DeliveryOrders
from objectcache.workers.object_orders import ObjectOrders
from objectcache.workers.sessions import WorkerSessions

log = logging.getLogger(__name__)

REAP_INTERVAL_S = 0.5
MOST_WAITING = 2
"""Threads beside the one that takes orders; one more is started when none of them is left."""

_WITH_DESCRIPTOR = {"attach", "respond", "send_object", "receive", "share", "board"}


class Worker:
    """Carries out what the control process says."""

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel
        self._leading = threading.Lock()
        self._waiting = 0
        self._gone = threading.Event()
        self._answering = Answering(channel)
        stores = WorkerStores()
        self._sessions = WorkerSessions(self._answering)
        self._deliveries = DeliveryOrders(self._answering, stores, self._sessions)
        objects = ObjectOrders(self._answering, stores, lambda: self._sessions.delivering)
        self._orders: dict[str, Order] = {**self._sessions.orders, **self._deliveries.orders, **objects.orders}

    def serve(self) -> None:
        """Until the control process is gone."""
        in_thread("reaper", self._reap)
        in_thread("orders", self._lead)
        self._gone.wait()

    def _lead(self) -> None:
        """Take orders in turn with other threads. A delivery begins in the one that has its order: waking another takes
        longer."""
        while self._waiting < MOST_WAITING:
            self._waiting += 1
            with self._leading:
                self._waiting -= 1
                rest = self._obey()
                if rest is None:
                    self._gone.set()
                    return
                if not self._waiting:
                    in_thread("orders", self._lead)
            rest()

    def _obey(self) -> Callable[[], None] | None:
        """Carry out orders up to one that has something left to do, which is returned; None: there will be no more."""
        while (received := self._channel.receive()) is not None:
            message, fds = received
            try:
                if message["op"] in _WITH_DESCRIPTOR and not fds:
                    raise OSError(errno.EMFILE, "no room for a descriptor that was sent")
                rest = self._orders[message["op"]](message, fds)
                if rest is not None:
                    return rest
            except (OSError, RuntimeError):  # RuntimeError: no room for a thread
                log.exception("the order %r failed", message["op"])
                if message["op"] == "attach":
                    self._sessions.end(message, fds)
                elif "tag" in message:
                    self._answering.failed(message)
        return None

    def _reap(self) -> None:
        while True:
            time.sleep(REAP_INTERVAL_S)
            now_s = time.monotonic()
            self._sessions.reap(now_s)
            self._deliveries.reap(now_s)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the control process, which drains
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # streams take two each, and segments stay open
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        Worker(BlockingChannel(sock)).serve()


if __name__ == "__main__":
    main()
