"""Workers that stand still at a bad moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from objectcache.cache import Match, Retrieval, RetrieveOptions
from objectcache.client import GatewayCache
from tests.gateway.process import eventually, stopped

DEADLINE_S = 1.0


@contextmanager
def stopped_in_mid_delivery(worker: int, cache: GatewayCache, match: Match) -> Iterator[Retrieval]:
    """The worker stands still, with a part of a delivery placed. It may be too fast for us a few times."""
    for _ in range(50):
        retrieval = cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1, deadline_s=DEADLINE_S))
        retrieval.wait(0)
        with stopped(worker):
            time.sleep(0.1)  # of what was placed, word has come
            if not retrieval.complete:
                yield retrieval
                return
        retrieval.close()
        eventually(lambda: not cache.pool.usage().in_use_bytes, "its memory is free again")
    pytest.fail("the worker was never stopped in time")
