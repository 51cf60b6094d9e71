"""A thousand deliveries of every kind leave nothing behind: no registration, handle, notification, thread or slot."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest

from objectcache.cache import CHUNKWISE, PartId, RetrieveOptions
from objectcache.cache.base import matched_part
from objectcache.errors import BufferPoolExhaustedError, DeliveryTimeoutError, KeyNotFoundError
from objectcache.testing.synthetic import check_delivery, flat_layout, prompt
from tests.gateway.process import GatewayProcess, eventually
from tests.nixl.opening import agent_of, is_free, open_cache, receivers_of, warm
from tests.nixl.test_faults import resources

DELIVERIES = 1000
LAYERS, CHUNKS, SLICE_BYTES = 4, 8, 20_000


@pytest.mark.timeout(240)
def test_a_thousand_mixed_deliveries(gateway: GatewayProcess) -> None:
    (worker,) = gateway.worker_pids
    choose = random.Random(8)
    with open_cache(gateway, buffer_bytes=8 << 20, fence_s=2.0) as cache:
        match = warm(cache, flat_layout(LAYERS, SLICE_BYTES), CHUNKS)
        unknown = prompt(match.namespace, CHUNKS, seed=1)
        absent = replace(match, parts=(matched_part(match.namespace, unknown, PartId(0, 0), 0, CHUNKS),))
        session, agent, receivers = cache._session, agent_of(cache), receivers_of(cache)
        usage, before = agent.usage, resources(worker)
        for number in range(DELIVERIES):
            kind = choose.choice(("whole", "whole", "cancelled", "closed at once", "late", "refused", "several"))
            per_unit = choose.choice((1, 2, CHUNKWISE))
            options = RetrieveOptions(layers_per_unit=per_unit)
            if kind == "whole":
                with cache.retrieve(match, options=options) as retrieval:
                    retrieval.wait(LAYERS - 1)
                    if number % 20 == 0:
                        check_delivery(retrieval, match)
            elif kind == "cancelled":
                with cache.retrieve(match, options=options) as retrieval:
                    retrieval.wait(choose.randrange(LAYERS))
            elif kind == "closed at once":
                cache.retrieve(match, options=options).close()
            elif kind == "late":
                with suppress(DeliveryTimeoutError):
                    hurried = RetrieveOptions(layers_per_unit=1, deadline_s=choose.choice((0.001, 0.003, 0.006)))
                    with cache.retrieve(match, options=hurried) as retrieval:
                        retrieval.wait(LAYERS - 1)
            elif kind == "refused":
                with pytest.raises(KeyNotFoundError):
                    cache.retrieve(absent)
            else:
                several = []
                with suppress(BufferPoolExhaustedError):
                    several = [cache.retrieve(match, options=options) for _ in range(3)]
                for retrieval in several:
                    with retrieval:
                        retrieval.wait(LAYERS - 1)
        eventually(lambda: is_free(cache), "all memory is free")
        eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "no delivery is left")
        assert cache._session is session, "one handshake was enough"
        assert agent.usage == usage == (1, 0, 0)
        assert receivers._order.waiting == 0
        eventually(lambda: not receivers._awaited, "nothing is awaited")
        assert not receivers._receiver._expected
        eventually(lambda: all(map(int.__le__, resources(worker), before)), "the worker has no more than before")
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)
    eventually(lambda: gateway.metric("objectcache_sessions") == 0, "the session ends with the client")
    eventually(lambda: agent.usage == (0, 0, 0), "and the agent with it")
