"""The frames of a response, sent step by step: their sizes are told before the rate is known, so none is cut."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from objectcache.errors import DeliveryError, DeliveryTimeoutError
from objectcache.transports.active import ActiveDelivery, Steps


def paced_steps(active: ActiveDelivery, changed: threading.Condition) -> Steps:
    """For the only delivery of a session, whose lock is `changed`. Steps raise DeliveryError when it is given up."""

    def steps(data_bytes: int) -> Iterator[int]:
        while data_bytes:
            step_bytes = _next(active, changed, data_bytes)
            data_bytes -= step_bytes
            yield step_bytes

    return steps


def _next(active: ActiveDelivery, changed: threading.Condition, most_bytes: int) -> int:
    pace = active.pace
    assert pace is not None
    with changed:
        while not active.state.stopping:
            now_s = time.monotonic()
            if now_s >= active.state.deadline_s:
                raise DeliveryTimeoutError("the delivery's deadline has passed within a frame")
            due_s = pace.due_s(now_s)
            if due_s <= now_s:
                step_bytes = min(most_bytes, pace.step_bytes)
                pace.take(step_bytes, now_s)
                return step_bytes
            changed.wait(due_s - now_s)
    raise DeliveryError("the delivery was given up within a frame")
