"""What the orders of a data worker share: answers to the control process, threads, and the stores that are open."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from objectcache.errors import IntegrityError, ObjectCacheError, SegmentGoneError
from objectcache.stores import Store, open_store
from objectcache.stores.base import UNLIMITED_BYTES
from objectcache.workers.channel import BlockingChannel, Message, error_fields

log = logging.getLogger(__name__)

Order = Callable[[Message, list[int]], Callable[[], None] | None]
"""Carries out a message; the descriptors that came with it are its own. What it returns is called when another thread
takes the next order: it may wait for a store."""


class Answering:
    """The way back to the control process. Thread-safe; every order with a `tag` is answered, with that tag."""

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel

    def tell(self, message: Message) -> None:
        """Something that nobody has asked."""
        self._channel.send(message)

    def answer(self, message: Message, error: ObjectCacheError | None = None, **result: object) -> None:
        answer: Message = {"tag": message["tag"], **result}
        if error is not None:
            answer |= error_fields(error)
            if isinstance(error, IntegrityError | SegmentGoneError):
                answer["segment"] = error.segment
        self._channel.send(answer)

    def failed(self, message: Message) -> None:
        """Answer what is in this process's log only."""
        self.answer(message, ObjectCacheError("the data worker failed: the gateway's log says why"))

    def carry_out(self, name: str, message: Message, run: Callable[[], None]) -> None:
        """Run an order beside others; whatever happens, it is answered."""

        def carry_out() -> None:
            try:
                run()
            except Exception:  # nobody must wait for ever for what went wrong here
                log.exception("the order %r failed", name)
                self.failed(message)

        in_thread(name, carry_out)


class WorkerStores:
    """Stores by URL, opened when they are first needed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: dict[str, Store] = {}

    def get(self, url: str) -> Store:
        with self._lock:
            store = self._stores.get(url)
            if store is None:
                # Room is made and accounted for by the control process, which knows what may be evicted.
                store = self._stores[url] = open_store(url, limit_bytes=UNLIMITED_BYTES)
            return store

    def forget(self, url: str) -> None:
        with self._lock:
            store = self._stores.pop(url, None)
        if store is not None:
            store.close()


def in_thread(name: str, run: Callable[[], None]) -> None:
    threading.Thread(target=run, name=name, daemon=True).start()
