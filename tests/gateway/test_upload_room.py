"""Room for uploads: what cannot be a segment makes no room, and so costs nobody theirs."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from objectcache.names import segment_name
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import BUCKET, Answer, GatewayProcess
from tests.gateway.raw import segment_of, store_header, store_request

LAYOUT = flat_layout(4, 32 << 10)
CHUNKS = 8
SEGMENT_BYTES = 4 * CHUNKS * 32 << 10
LIMIT_BYTES = int(4.5 * SEGMENT_BYTES)


@pytest.fixture(scope="module")
def full(module_gateway: StartGateway) -> GatewayProcess:
    """A gateway without room for another segment, none of which is pinned. No test leaves it with more room."""
    gateway = module_gateway(limit_bytes=LIMIT_BYTES)
    namespace = new_namespace(LAYOUT)
    with gateway.open() as cache:
        for seed in range(4):
            store_parts(cache, namespace, prompt(namespace, CHUNKS, seed=seed))
    return gateway


def announce(gateway: GatewayProcess, length: int, headers: dict[str, str]) -> Answer:
    """An upload that waits for its go-ahead, and would send nothing."""
    connection = gateway.connect()
    connection.putrequest("PUT", f"/{BUCKET}?kv-store")
    connection.putheader("Content-Length", str(length))
    connection.putheader("Expect", "100-continue")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        return Answer.read(connection.getresponse())
    finally:
        connection.close()


@pytest.mark.parametrize("length", [0, 1, SEGMENT_BYTES, LIMIT_BYTES - 1, LIMIT_BYTES + 1, 1 << 50])
def test_a_length_that_no_such_segment_has_evicts_nothing(full: GatewayProcess, length: int) -> None:
    """Exactly the slices' own bytes are too few: header, digests and footer come on top."""
    namespace = new_namespace(LAYOUT)
    full.ask("PUT", f"/{BUCKET}?kv-namespace", namespace.to_json())
    header, _ = segment_of(namespace, prompt(namespace, CHUNKS, seed=9), segment_name("c-bad", 1))
    before = full.metric("objectcache_core_evicted")
    answer = announce(full, length, store_header(store_request(header)))
    assert (answer.status, answer.error["Code"]) == (400, "InvalidRequest")
    assert full.metric("objectcache_core_evicted") == before


def test_an_absurd_range_evicts_nothing(full: GatewayProcess) -> None:
    namespace = new_namespace(LAYOUT)
    full.ask("PUT", f"/{BUCKET}?kv-namespace", namespace.to_json())
    header, body = segment_of(namespace, prompt(namespace, CHUNKS, seed=9), segment_name("c-bad", 2))
    request = replace(store_request(header), stop=1 << 24)
    before = full.metric("objectcache_core_evicted")
    answer = announce(full, len(body), store_header(request))
    assert answer.status == 400
    answer = announce(full, LIMIT_BYTES - 1, {"x-kv-store": base64.b64encode(b"\x80").decode()})
    assert answer.status == 400
    assert full.metric("objectcache_core_evicted") == before


def test_the_right_length_makes_room(full: GatewayProcess) -> None:
    namespace = new_namespace(LAYOUT)
    before = full.metric("objectcache_core_evicted")
    with full.open() as cache:
        store_parts(cache, namespace, prompt(namespace, CHUNKS, seed=9))
        assert cache.match(namespace, prompt(namespace, CHUNKS, seed=9)).tokens == CHUNKS * 16
    assert full.metric("objectcache_core_evicted") > before


@pytest.mark.parametrize("field", ["leaf", "first", "stop"])
def test_a_segment_is_of_the_chunks_that_were_announced(full: GatewayProcess, field: str) -> None:
    namespace = new_namespace(LAYOUT)
    full.ask("PUT", f"/{BUCKET}?kv-namespace", namespace.to_json())
    header, body = segment_of(namespace, prompt(namespace, 2, seed=9), segment_name(f"c-{field}", 3))
    request = store_request(header)
    other = {
        "leaf": replace(request, leaf=bytes(32)),
        "first": replace(request, first=5, stop=7),
        "stop": replace(request, stop=3),
    }[field]
    answer = full.ask("PUT", f"/{BUCKET}?kv-store", body, store_header(other))
    assert (answer.status, answer.error["Code"]) == (400, "InvalidRequest")
    answer = full.ask("PUT", f"/{BUCKET}?kv-store", body, store_header(request))
    assert answer.status == 201
