"""Pacing: the kernel sends no faster than a session was told."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from objectcache.delivery import Delivery
from objectcache.frames import FRAME_HEADER_BYTES, FrameType, decode_frame
from objectcache.layout import DIGEST_BYTES
from objectcache.stores import FileStore, MemoryStore
from objectcache.transports import ActiveDelivery, SenderSession
from objectcache.transports.sockets import pace, recv_exact
from objectcache.transports.source import spans_of, wire_bytes
from objectcache.workers.open_objects import OpenObjects
from objectcache.workers.pool import WorkerPool
from tests.transports.sending import PATIENCE_S, StoredPrefix, store_prefix

STREAMS = 2
RATE_BYTES_S = 16 << 20
# 8 MiB: half a second at that rate, and milliseconds without.
SHAPE = {"segments": 1, "chunks": 16, "layers": 8, "slice_bytes": 64 << 10}


@contextmanager
def connected(streams: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Pairs of TCP connections: pacing is TCP's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pairs = []
        for _ in range(streams):
            mine = socket.create_connection(listener.getsockname())
            pairs.append((mine, listener.accept()[0]))
    try:
        yield pairs
    finally:
        for mine, theirs in pairs:
            mine.close()
            theirs.close()


def read_to_the_end(sock: socket.socket) -> None:
    """All frames of one delivery."""
    head = memoryview(bytearray(FRAME_HEADER_BYTES))
    while True:
        recv_exact(sock, head)
        frame = decode_frame(head)
        recv_exact(sock, memoryview(bytearray(frame.extra * DIGEST_BYTES + frame.data_bytes)))
        if frame.type is not FrameType.DATA:
            assert frame.type is FrameType.END
            return


def read_all(socks: list[socket.socket]) -> None:
    threads = [threading.Thread(target=read_to_the_end, args=(sock,)) for sock in socks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def delivered_in_s(
    session: SenderSession, socks: list[socket.socket], store: MemoryStore, prefix: StoredPrefix
) -> float:
    held = OpenObjects().hold(store, prefix.plan.segment_bytes)
    state = Delivery(streams=STREAMS, credit_bytes=0, deadline_s=time.monotonic() + PATIENCE_S)
    spans = spans_of(prefix.plan, held.readers, 1, 0)
    start_s = time.monotonic()
    session.add(ActiveDelivery(1, 0, state, spans, lambda error: held.release()))
    read_all(socks)
    return time.monotonic() - start_s


def test_a_paced_delivery_takes_as_long_as_it_should() -> None:
    store = MemoryStore()
    prefix = store_prefix(store, 1, **SHAPE)
    due_s = wire_bytes(prefix.plan) / RATE_BYTES_S
    with connected(STREAMS) as pairs:
        session = SenderSession(STREAMS)
        try:
            session.pace(RATE_BYTES_S)
            for stream, (_, theirs) in enumerate(pairs):
                assert session.attach(stream, theirs)
            socks = [mine for mine, _ in pairs]
            paced_s = delivered_in_s(session, socks, store, prefix)
            assert due_s * 0.6 < paced_s < due_s * 10
            session.pace(0)
            assert delivered_in_s(session, socks, store, prefix) < paced_s
            for stream in range(STREAMS):
                session.pace(RATE_BYTES_S // STREAMS, stream)
            assert delivered_in_s(session, socks, store, prefix) > due_s * 0.6
        finally:
            session.close()


@pytest.mark.parametrize("bytes_s", [1, 10**9, 10**11])
def test_rates_of_every_size_can_be_set_and_unset(bytes_s: int) -> None:
    with connected(1) as [(mine, _)]:
        pace(mine, bytes_s)
        pace(mine, 0)


def test_a_worker_paces_a_session(tmp_path: os.PathLike[str]) -> None:
    store = FileStore(os.fspath(tmp_path))
    prefix = store_prefix(store, 1, **SHAPE)
    due_s = wire_bytes(prefix.plan) / RATE_BYTES_S

    async def run() -> list[float]:
        pool = WorkerPool(1)
        await pool.start()
        try:
            worker, id = pool.pick(), os.urandom(16)
            worker.tell("session", session=id, streams=STREAMS)
            with connected(STREAMS) as pairs:
                for stream, (_, theirs) in enumerate(pairs):
                    worker.tell("attach", fds=[theirs.fileno()], session=id, stream=stream)
                took_s = []
                for number, bytes_s in enumerate((RATE_BYTES_S, 0), 1):
                    worker.tell("rate", session=id, bytes_s=bytes_s)
                    start_s = time.monotonic()
                    ended = worker.order(
                        "deliver",
                        session=id,
                        store=store.url,
                        delivery=number,
                        epoch=0,
                        credit_bytes=0,
                        deadline_s=PATIENCE_S,
                        plan=prefix.plan.to_wire(),
                    )
                    await asyncio.to_thread(read_all, [mine for mine, _ in pairs])
                    took_s.append(time.monotonic() - start_s)
                    await ended
                worker.tell("rate", session=os.urandom(16), bytes_s=1)  # one that has ended
                return took_s
        finally:
            await pool.stop()

    paced_s, free_s = asyncio.run(run())
    assert due_s * 0.6 < paced_s < due_s * 10
    assert free_s < paced_s
