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
        numbers = itertools.count()  # shared: taking one is atomic
        landed_s = [0.0] * len(ranges)

        def work(_: int) -> None:
            while (number := next(numbers)) < len(ranges):
                self._get(ranges[number])
                landed_s[number] = time.perf_counter()

        start_s = time.perf_counter()
        list(self._threads.map(work, range(self._parallel)))
        first = [at_s for at_s, item in zip(landed_s, ranges, strict=True) if item.first_layer]
        return Fetch(
            started_s=start_s,
            total_s=max(landed_s) - start_s,
            first_layer_s=max(first) - start_s if first else None,
            payload_bytes=sum(item.length for item in ranges),
            requests=len(ranges),
        )

    def _get(self, item: Range) -> None:
        with translated(f"reading {item.key!r}"):
            if item.whole:
                data = obstore.get(self._bucket, item.key).bytes()
            else:
                data = obstore.get_range(self._bucket, item.key, start=item.offset, length=item.length)
        if len(data) != item.length:
            raise BenchmarkError(f"{item.key!r} gave {len(data)} bytes instead of {item.length}")
        # By numpy, which lets other threads run meanwhile.
        np.copyto(self.buffer[item.at : item.at + item.length], np.frombuffer(memoryview(data), np.uint8))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
