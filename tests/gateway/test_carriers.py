"""What several workers of a session send of a delivery, seen on each of its connections."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack

import pytest

from objectcache.cache import Match
from objectcache.errors import IntegrityError, SessionNotFoundError
from objectcache.frames import (
    FrameType,
    credit_frame,
)
from objectcache.messages import CancelAnswer, CancelRequest
from objectcache.segment import decode_header, header_length
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, store_parts
from objectcache.workers.process import MOST_WAITING
from tests.gateway.arrivals import set_caps
from tests.gateway.connections import connections
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess, eventually, resources_of, stopped
from tests.gateway.raw import ask

WORKERS, STREAMS = 2, 5
LAYERS, CHUNKS, SLICE_BYTES = 4, 24, 256 << 10
LAYER_BYTES = CHUNKS * SLICE_BYTES  # 6 pieces
FRAME_BYTES = 1 << 20


@pytest.fixture(scope="module")
def spreading(module_gateway: StartGateway) -> GatewayProcess:
    return module_gateway(workers=WORKERS, workers_per_session=WORKERS, merge_bytes_s=0)


def store(gateway: GatewayProcess, layers: int = LAYERS, chunks: int = CHUNKS, slice_bytes: int = SLICE_BYTES) -> Match:
    namespace = new_namespace(flat_layout(layers, slice_bytes))
    with gateway.open(target="http") as cache:
        store_parts(cache, namespace, prompt(namespace, chunks))
        return cache.match(namespace, prompt(namespace, chunks))


@pytest.fixture
def match(spreading: GatewayProcess) -> Match:
    return store(spreading)


def test_each_layer_comes_from_all_workers_and_nothing_twice(spreading: GatewayProcess, match: Match) -> None:
    with connections(spreading, STREAMS) as client:
        assert ask(spreading, "kv-retrieve", client.descriptor(match)).status == 200
        client.read()
    assert {stream.last for stream in client.streams} == {FrameType.END}
    sent: dict[int, Counter[int]] = defaultdict(Counter)  # by layer, then worker
    seen = set()
    for number, stream in enumerate(client.streams):
        layers = [frame.layer for frame in stream.data]
        assert layers == sorted(layers)
        for frame in stream.data:
            sent[frame.layer][number % WORKERS] += frame.data_bytes
            seen.add((frame.layer, frame.first_chunk, frame.span_offset))
    assert len(seen) == sum(len(stream.data) for stream in client.streams)
    assert {layer: sum(workers.values()) for layer, workers in sent.items()} == dict.fromkeys(
        range(LAYERS), LAYER_BYTES
    )
    for workers in sent.values():  # three of five streams are the first one's
        assert abs(workers[0] - LAYER_BYTES * 3 / 5) <= FRAME_BYTES
    whole = sum(sum(workers.values()) for workers in sent.values())
    eventually(lambda: spreading.metric("objectcache_delivered_bytes_total", target="tcp") >= whole, "it is counted")


def test_what_is_small_comes_from_one_worker_and_ends_on_all_streams(spreading: GatewayProcess) -> None:
    match = store(spreading, chunks=2)
    with connections(spreading, STREAMS) as client:
        for _ in range(3):
            assert ask(spreading, "kv-retrieve", client.descriptor(match)).status == 200
            client.read()
            assert {stream.last for stream in client.streams} == {FrameType.END}
            assert sum(f.data_bytes for stream in client.streams for f in stream.data) == LAYERS * 2 * SLICE_BYTES
            assert not any(stream.data for stream in client.streams[1::WORKERS])
            for stream in client.streams:
                stream.last = None
                stream.data.clear()


def test_credit_is_counted_over_all_streams_wherever_it_comes(spreading: GatewayProcess, match: Match) -> None:
    granted = 3 * (FRAME_BYTES + (1 << 12))
    with connections(spreading, STREAMS) as client:
        assert ask(spreading, "kv-retrieve", client.descriptor(match, credit_bytes=granted)).status == 200
        reader = threading.Thread(target=client.read)
        reader.start()

        def came() -> int:
            return sum(len(stream.data) for stream in client.streams)

        eventually(lambda: came() == 3, "what may be sent comes")
        for turn in range(STREAMS):
            time.sleep(0.05)
            assert came() == 3 + turn
            assert not any(stream.last for stream in client.streams), "nobody says the last word before the others"
            granted += FRAME_BYTES + (1 << 12)
            client.streams[turn].sock.sendall(credit_frame(1, 0, granted))
            eventually(lambda: came() == 4 + turn, "one frame more")  # noqa: B023
        client.streams[1].sock.sendall(credit_frame(1, 0, 1 << 40))
        reader.join(20.0)
    assert {stream.last for stream in client.streams} == {FrameType.END}
    assert sum(f.data_bytes for stream in client.streams for f in stream.data) == LAYERS * LAYER_BYTES


@pytest.mark.parametrize("credit_bytes", [0, 2 * FRAME_BYTES], ids=["spread", "one worker's"])
def test_cancelled_in_the_middle_all_streams_say_so_and_the_session_goes_on(
    spreading: GatewayProcess, credit_bytes: int
) -> None:
    large = store(spreading, layers=32)  # more than sockets hold: nobody reads at first
    with connections(spreading, STREAMS) as client:
        asked = client.descriptor(large, credit_bytes=credit_bytes)
        assert ask(spreading, "kv-retrieve", asked).status == 200
        assert not client.silent(5.0)
        reader = threading.Thread(target=client.read)
        quiet: list[bool] = []
        canceller = threading.Thread(target=lambda: quiet.append(client.cancel(spreading)))
        canceller.start()
        time.sleep(0.1)
        reader.start()
        canceller.join(20.0)
        reader.join(20.0)
        assert quiet == [True]
        assert {stream.last for stream in client.streams} == {FrameType.CANCELLED}
        assert sum(f.data_bytes for stream in client.streams for f in stream.data) < 32 * LAYER_BYTES
        for stream in client.streams:
            stream.last = None
        assert ask(spreading, "kv-retrieve", client.descriptor(large, delivery=2)).status == 200
        client.read()
        assert {stream.last for stream in client.streams} == {FrameType.END}
    eventually(lambda: spreading.metric("objectcache_deliveries_running") == 0, "no delivery is left")


def test_a_worker_that_stands_still_is_not_quiet(spreading: GatewayProcess) -> None:
    large = store(spreading, layers=32)
    with connections(spreading, STREAMS) as client:
        assert ask(spreading, "kv-retrieve", client.descriptor(large)).status == 200
        assert not client.silent(5.0)
        with stopped(spreading.worker_pids[-1]):
            body = CancelRequest(client.session.session, 1, 0, 0.2).encode()
            assert not CancelAnswer.decode(ask(spreading, "kv-delivery", body, method="DELETE").body).quiet


def test_what_one_worker_cannot_read_ends_the_streams_of_all_with_the_same_error(spreading: GatewayProcess) -> None:
    before = spreading.segments
    match = store(spreading, layers=64, chunks=1)  # one span a layer: only who sends it reads its digests
    (segment,) = spreading.segments - before
    data = segment.read_bytes()
    geometry = decode_header(data[: header_length(data)]).geometry
    with segment.open("r+b") as file:
        file.seek(geometry.row_offset(32))
        file.write(bytes(geometry.rows[32].row_bytes))
    with connections(spreading, STREAMS) as client:
        assert ask(spreading, "kv-retrieve", client.descriptor(match)).status == 200
        client.read()
        # A worker that had sent all of its own before it was told has said so.
        assert {stream.last for stream in client.streams} <= {FrameType.ERROR, FrameType.END}
        failed = [stream for stream in client.streams if stream.last is FrameType.ERROR]
        assert len({str(stream.error) for stream in failed}) == 1
        assert isinstance(failed[0].error, IntegrityError)
        other = store(spreading)
        for stream in client.streams:
            stream.last = stream.error = None
        assert ask(spreading, "kv-retrieve", client.descriptor(other, delivery=2)).status == 200
        client.read()
        assert {stream.last for stream in client.streams} == {FrameType.END}


def test_with_a_worker_that_dies_the_session_ends_on_all(spreading: GatewayProcess) -> None:
    large = store(spreading, layers=32)
    workers = spreading.worker_pids
    with connections(spreading, STREAMS) as client:
        assert ask(spreading, "kv-retrieve", client.descriptor(large)).status == 200
        assert not client.silent(5.0)
        os.kill(workers[1], signal.SIGKILL)
        for stream in client.streams:
            ended_s = time.monotonic() + 10.0
            while stream.sock.recv(1 << 20):
                assert time.monotonic() < ended_s
        assert ask(spreading, "kv-retrieve", client.descriptor(large)).error["Code"] == SessionNotFoundError.code
        eventually(lambda: spreading.metric("objectcache_deliveries_running") == 0, "no delivery is left")
    eventually(lambda: spreading.ask("GET", "/readyz").status == 200, "another worker runs")
    assert workers[0] in spreading.worker_pids


@pytest.mark.timing
def test_the_first_cap_slows_down_all_that_send(spreading: GatewayProcess) -> None:
    cap_bytes_s, buffered_bytes = 1e8, 40 << 20
    large = store(spreading, layers=32)
    with connections(spreading, STREAMS) as client:
        assert ask(spreading, "kv-retrieve", client.descriptor(large)).status == 200
        assert not client.silent(5.0)
        set_caps(spreading, gateway=cap_bytes_s)
        capped_s = time.monotonic()
        reader = threading.Thread(target=client.read)
        reader.start()
        time.sleep(0.3)
        came_bytes = sum(f.data_bytes for stream in client.streams for f in list(stream.data))
        assert came_bytes <= buffered_bytes + (time.monotonic() - capped_s) * cap_bytes_s
        assert came_bytes < 32 * LAYER_BYTES * 2 // 5, "no worker has sent all of its own"
        set_caps(spreading, gateway=None)
        reader.join(20.0)
        assert {stream.last for stream in client.streams} == {FrameType.END}


def test_sessions_are_led_by_each_worker_in_turn(spreading: GatewayProcess) -> None:
    """What is small would otherwise all be sent by one of them."""
    eventually(lambda: spreading.metric("objectcache_sessions") == 0, "no session is left of before")
    before = [resources_of(pid)[1] for pid in spreading.worker_pids]
    with ExitStack() as stack:
        for _ in range(4):  # of three streams two are the first worker's
            stack.enter_context(connections(spreading, streams=3))

        def alike() -> bool:
            after = [resources_of(pid)[1] for pid in spreading.worker_pids]
            more = [now - then for now, then in zip(after, before, strict=True)]
            # Two threads for each connection, and some of a pool. One that led all would have eight more.
            return abs(more[0] - more[1]) <= 2 + MOST_WAITING and sum(more) >= 4 * 3 * 2

        eventually(alike, "both have as many")


def test_a_session_has_no_more_workers_than_streams(spreading: GatewayProcess, match: Match) -> None:
    with connections(spreading, streams=1) as client:
        assert ask(spreading, "kv-retrieve", client.descriptor(match)).status == 200
        client.read()
    assert sum(frame.data_bytes for frame in client.streams[0].data) == LAYERS * LAYER_BYTES
