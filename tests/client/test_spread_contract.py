"""The contract of caches where every delivery, however small, is sent by several workers of the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from objectcache.cache import KVCache
from objectcache.testing.cache_deliveries import DeliveryContract
from objectcache.testing.cache_lives import LifeContract
from objectcache.testing.cache_matching import MatchingContract
from objectcache.testing.cache_one_trip import OneTripContract
from tests.client.test_contract import GatewayContract
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess


@pytest.fixture(scope="module", params=[2, 4], ids=["2 workers", "4 workers"])
def gateway(request: pytest.FixtureRequest, module_gateway: StartGateway) -> GatewayProcess:
    return module_gateway(
        workers=request.param, workers_per_session=request.param, spread_from_bytes=0, attach_s=3.0, merge_bytes_s=0
    )


class SpreadContract(GatewayContract, DeliveryContract, OneTripContract, LifeContract):
    streams = 5
    test_layers_of_several_shards = MatchingContract.test_shards_of_pipeline_stages_have_layers_of_their_own
    test_layers_of_several_groups = MatchingContract.test_groups_match_by_rules_and_chunks_of_their_own

    @pytest.fixture
    def cache(self) -> Iterator[KVCache]:
        with self.open_cache() as cache:
            yield cache


class TestStripedThreads(SpreadContract):
    target = "tcp"


@pytest.mark.parametrize("gateway", [2], indirect=True, ids=["2 workers"])
class TestStripedProcesses(SpreadContract):
    """Each test starts processes: once is enough."""

    target = "tcp"
    receiver = "process"


class TestSharedMemory(SpreadContract):
    target = "shm"
