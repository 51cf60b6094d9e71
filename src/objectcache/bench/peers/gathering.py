"""The same GETs from coroutines on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt
import obstore

from objectcache.bench.stores.fetch import Fetch
from objectcache.bench.stores.gets import Gets, Progress, Range
from objectcache.stores.s3 import S3Options
from objectcache.stores.s3.errors import translated


class GatheredGets(Gets):
    """As many coroutines as GETs in flight. Only for processes that end by `os._exit`: obstore under asyncio has been
    seen to abort the interpreter at its exit."""

    def __init__(self, options: S3Options, parallel: int, buffer: npt.NDArray[np.uint8]) -> None:
        super().__init__(options, parallel, buffer)
        self._runner = asyncio.Runner()

    def fetch(self, ranges: Sequence[Range]) -> Fetch:
        return self._runner.run(self._fetch(ranges))

    async def _fetch(self, ranges: Sequence[Range]) -> Fetch:
        progress = Progress(ranges)

        async def work() -> None:
            while (number := progress.ask()) is not None:
                item = ranges[number]
                with translated(f"reading {item.key!r}"):
                    if item.whole:
                        data = await (await obstore.get_async(self._bucket, item.key)).bytes_async()
                    else:
                        data = await obstore.get_range_async(
                            self._bucket, item.key, start=item.offset, length=item.length
                        )
                self._place(item, memoryview(data))
                progress.land(number)

        await asyncio.gather(*(work() for _ in range(self._parallel)))
        return progress.fetch()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()
        super().__exit__(kind, error, trace)
