"""A gate that many may be inside of, and that can be closed behind the last of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Many may be inside, or one who closed it. Who waits to close it goes before who comes later."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._inside = 0
        self._closing = False

    def enter(self) -> None:
        with self._condition:
            while self._closing:
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._condition:
            self._inside -= 1
            if not self._inside and self._closing:
                self._condition.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        with self._condition:
            while self._closing:
                self._condition.wait()
            self._closing = True
        try:
            with self._condition:
                while self._inside:
                    self._condition.wait()
            yield
        finally:
            with self._condition:
                self._closing = False
                self._condition.notify_all()
