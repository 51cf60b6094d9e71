"""One measured retrieval, however it was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from objectcache.bench.transfer import GB


@dataclass(frozen=True, slots=True)
class Fetch:
    """`started_s` is on time.perf_counter; times count from asking to bytes in place, verified where that is done.

    `first_layer_s` is None where there are no layers, `requests` where nobody counts those made to the store,
    `last_asked_s`, when the last of them was made, where nobody looked.
    """

    started_s: float
    total_s: float
    payload_bytes: int
    first_layer_s: float | None = None
    requests: int | None = None
    last_asked_s: float | None = None

    @property
    def goodput_gb_s(self) -> float:
        return self.payload_bytes / GB / self.total_s


class Way(NamedTuple):
    """`check` does it once and compares every byte; `measure` is timed."""

    check: Callable[[], object]
    measure: Callable[[], Fetch]
