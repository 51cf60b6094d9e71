"""What the best client there is does without ObjectCache: obstore's GETs, many in flight, into one buffer.

No digests, no order to keep: only bytes. Each thread asks for the next range as soon as its last one is in place.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import obstore

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.stores.fetch import Fetch
from objectcache.stores.s3 import S3Options, S3Timing
from objectcache.stores.s3.calls import open_bucket
from objectcache.stores.s3.errors import translated

_TIMEOUT_S = 60.0
"""Of one request: a benchmark had rather wait than fail."""


class Range(NamedTuple):
    """`length` bytes of an object from `offset`, which belong at `at` of the buffer. `whole`: all of the object."""

    key: str
    offset: int
    length: int
    at: int
    first_layer: bool = False
    whole: bool = False


def chunk_ranges(keys: Sequence[str], chunk_bytes: int) -> list[Range]:
    """Every chunk whole, chunk by chunk in the buffer.

    A chunk's first layer is there when the whole is: with many in flight, that makes no difference.
    """
    return [Range(key, 0, chunk_bytes, at * chunk_bytes, True, True) for at, key in enumerate(keys)]


def slice_ranges(keys: Sequence[str], layers: Sequence[int], slice_bytes: int) -> list[Range]:
    """Those `layers` of every chunk, layer by layer, the order in which they are needed, and so in the buffer."""
    return [
        Range(key, layer * slice_bytes, slice_bytes, (place * len(keys) + at) * slice_bytes, first_layer=not place)
        for place, layer in enumerate(layers)
        for at, key in enumerate(keys)
    ]


class Gets(AbstractContextManager["Gets"]):
    """GETs from a bucket into `buffer`, at most `parallel` in flight. Raises StoreError."""

    def __init__(self, options: S3Options, parallel: int, buffer: npt.NDArray[np.uint8]) -> None:
        timing = replace(S3Timing(), request_timeout_s=_TIMEOUT_S, retry_timeout_s=_TIMEOUT_S)
        self._bucket = open_bucket(options, timing)
        self.buffer = buffer
        self._parallel = parallel
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="get")

    def put(self, key: str, data: bytes) -> None:
        with translated(f"storing {key!r}"):
            obstore.put(self._bucket, key, data, use_multipart=False)

    def put_all(self, objects: Sequence[tuple[str, bytes]]) -> None:
        list(self._threads.map(lambda item: self.put(*item), objects))

    def fetch(self, ranges: Sequence[Range]) -> Fetch:
        """All of `ranges`, in about that order."""
        progress = Progress(ranges)

        def work(_: int) -> None:
            while (number := progress.ask()) is not None:
                item = ranges[number]
                with translated(f"reading {item.key!r}"):
                    if item.whole:
                        data = obstore.get(self._bucket, item.key).bytes()
                    else:
                        data = obstore.get_range(self._bucket, item.key, start=item.offset, length=item.length)
                self._place(item, memoryview(data))
                progress.land(number)

        list(self._threads.map(work, range(self._parallel)))
        return progress.fetch()

    def _place(self, item: Range, data: memoryview) -> None:
        if len(data) != item.length:
            raise BenchmarkError(f"{item.key!r} gave {len(data)} bytes instead of {item.length}")
        # By numpy, which lets other threads run meanwhile.
        np.copyto(self.buffer[item.at : item.at + item.length], np.frombuffer(data, np.uint8))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


class Progress:
    """Which of `ranges` is next, and when each landed. Begins when it is made; any number of workers share it."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = ranges
        self._numbers = itertools.count()  # taking one is atomic
        self._landed_s = [0.0] * len(ranges)
        self._last_asked_s = 0.0
        self._start_s = time.perf_counter()

    def ask(self) -> int | None:
        """The number of the next range, None when all are taken."""
        number = next(self._numbers)
        if number >= len(self._ranges):
            return None
        if number == len(self._ranges) - 1:
            self._last_asked_s = time.perf_counter()
        return number

    def land(self, number: int) -> None:
        self._landed_s[number] = time.perf_counter()

    def fetch(self) -> Fetch:
        """When all have landed."""
        first = [at_s for at_s, item in zip(self._landed_s, self._ranges, strict=True) if item.first_layer]
        return Fetch(
            started_s=self._start_s,
            total_s=max(self._landed_s) - self._start_s,
            first_layer_s=max(first) - self._start_s if first else None,
            payload_bytes=sum(item.length for item in self._ranges),
            requests=len(self._ranges),
            last_asked_s=self._last_asked_s - self._start_s,
        )
