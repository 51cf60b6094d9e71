"""Calls that may hang, bounded from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from objectcache.errors import DeliveryTimeoutError

T = TypeVar("T")


def in_time(call: Callable[[], T], timeout_s: float, on_late: Callable[[T], None], *, what: str) -> T:
    """What `call()` returns or raises, in a thread of its own. Raises DeliveryTimeoutError after `timeout_s`.

    What comes later is handed to `on_late`, in that thread; `call` need not know that nobody waits any more.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - whoever waits has it
            future.set_exception(error)
        else:
            future.set_result(result)

    def late(ended: Future[T]) -> None:
        if ended.exception() is None:
            on_late(ended.result())

    threading.Thread(target=run, name="objectcache-look-up", daemon=True).start()
    try:
        done, _ = wait((future,), timeout_s)
    except BaseException:
        future.add_done_callback(late)
        raise
    if not done:
        future.add_done_callback(late)
        raise DeliveryTimeoutError(f"{what} took longer than {timeout_s:g} s")
    return future.result()
