"""Waiting until what is known of a bucket is new enough to match from."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from objectcache.cache.following import Following

THREADS = 16


class Freshness:
    """One wait for each bucket, shared by all matches. Lives on the event loop.

    Waits have threads of their own: the others may all be held by requests to a store that hangs, and matches go on
    from what is known.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fresh")
        self._waits: dict[Following, asyncio.Future[None]] = {}

    async def wait(self, following: Following) -> None:
        """As `Following.catch_up`."""
        if following.use():
            return
        waiting = self._waits.get(following)
        if waiting is None:
            waiting = asyncio.get_running_loop().run_in_executor(self._threads, following.catch_up)
            self._waits[following] = waiting
            waiting.add_done_callback(lambda _: self._waits.pop(following))
        await asyncio.shield(waiting)
