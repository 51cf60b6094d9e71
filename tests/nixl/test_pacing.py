"""What a link may carry is kept: WRITEs are small enough, and few enough in flight."""

from __future__ import annotations

import time

from objectcache.cache import RetrieveOptions
from objectcache.testing.synthetic import check_delivery, flat_layout
from tests.gateway.fixtures import StartGateway
from tests.nixl.opening import open_cache, warm

BYTES_S = 100e6
LAYERS, CHUNKS, SLICE_BYTES = 16, 16, 128 << 10
PREFIX_BYTES = LAYERS * CHUNKS * SLICE_BYTES


def test_a_cap_is_kept_from_layer_to_layer(own_gateway: StartGateway) -> None:
    gateway = own_gateway(bandwidth="100MB/s")
    with open_cache(gateway, buffer_bytes=2 * PREFIX_BYTES) as cache:
        match = warm(cache, flat_layout(LAYERS, SLICE_BYTES), CHUNKS)
        took_s = []
        for _ in range(3):  # other programs may be in the way: never too fast, and once as fast as may be
            started_s, landed_s = time.perf_counter(), []
            with cache.retrieve(match, options=RetrieveOptions(layers_per_unit=1)) as retrieval:
                for layer in range(LAYERS):
                    retrieval.wait(layer)
                    landed_s.append(time.perf_counter() - started_s)
                check_delivery(retrieval, match)
            took_s.append(landed_s[-1])
            for layer, at_s in enumerate(landed_s):
                assert at_s > 0.9 * (layer + 1) * PREFIX_BYTES / LAYERS / BYTES_S - 0.005
        assert min(took_s) < 1.2 * PREFIX_BYTES / BYTES_S
