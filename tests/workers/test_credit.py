"""Credit that a receiver sends to a worker which does not lead: it is passed on, but not as fast as anybody likes."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from objectcache.frames import credit_frame
from objectcache.workers.answering import Answering
from objectcache.workers.sessions import CREDIT_PAUSE_S, WorkerSessions

WORDS = 200


class Told(Answering):
    def __init__(self) -> None:
        self.granted: list[Any] = []
        self.all = threading.Event()

    def tell(self, message: dict[str, Any]) -> None:
        if "granted" in message:
            self.granted.append(message["granted"])
            if len(self.granted) == WORDS:
                self.all.set()


def test_who_says_much_waits() -> None:
    told = Told()
    sessions = WorkerSessions(told)
    sessions.orders["session"]({"session": b"one", "streams": 1, "leads": False}, [])
    mine, theirs = socket.socketpair()
    with mine:
        started_s = time.monotonic()
        sessions.orders["attach"]({"session": b"one", "stream": 0}, [theirs.detach()])
        for number in range(WORDS):
            mine.sendall(credit_frame(7, 1, number))
        assert told.all.wait(20.0)
        assert time.monotonic() - started_s >= (WORDS - 1) * CREDIT_PAUSE_S
        assert told.granted == [[b"one", 7, 1, number] for number in range(WORDS)]
    sessions.end({"session": b"one"}, [])
