"""A data worker over a store that is far: a read cache, which its URL opens in the worker's process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from objectcache.errors import IntegrityError, SegmentGoneError
from objectcache.stores import FileStore, ReadCache
from objectcache.workers.pool import WorkerHandle, WorkerOrderError, WorkerPool
from tests.transports.sending import StoredPrefix, store_prefix

PATIENCE_S = 30.0
EXTENT_BYTES = 1 << 19


class World:
    def __init__(self, root: Path) -> None:
        self.root = root / "cache"
        self.origin = FileStore(root / "origin")
        self.cache = ReadCache(self.origin, self.root, limit_bytes=1 << 30, extent_bytes=EXTENT_BYTES)
        self.prefix = store_prefix(self.origin, 1, segments=3, chunks=8, layers=4, slice_bytes=100_000)

    def damage_extents(self) -> None:
        """In the middle of each."""
        for path in (self.root / "extents").rglob("*-*"):
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                file.write(os.urandom(100))


async def deliver(worker: WorkerHandle, store: str, prefix: StoredPrefix) -> bytes:
    """What arrived after the head. Raises WorkerOrderError."""
    mine, theirs = socket.socketpair()
    with mine:
        mine.setblocking(False)
        with theirs:
            ended = worker.order(
                "respond",
                fds=[theirs.fileno()],
                session=os.urandom(8),
                head=b"head",
                store=store,
                delivery=1,
                epoch=0,
                credit_bytes=0,
                deadline_s=PATIENCE_S,
                plan=prefix.plan.to_wire(),
            )
        loop, received = asyncio.get_running_loop(), bytearray()

        async def receive() -> None:
            while data := await loop.sock_recv(mine, 1 << 20):
                received.extend(data)

        receiving = asyncio.create_task(receive())
        try:
            await asyncio.wait_for(ended, PATIENCE_S)
        finally:
            await asyncio.wait_for(receiving, PATIENCE_S)
    return bytes(received)


def with_worker(run: Callable[[WorkerHandle], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        pool = WorkerPool(1)
        await pool.start()
        try:
            await run(pool.pick())
        finally:
            await pool.stop()

    asyncio.run(main())


def test_deliveries_fill_the_cache_and_need_the_store_no_more(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def run(worker: WorkerHandle) -> None:
        first = await deliver(worker, world.cache.url, world.prefix)
        for name in world.prefix.plan.segments:
            world.origin.delete(name)
        assert await deliver(worker, world.cache.url, world.prefix) == first
        assert all(layer[:1000] in first for layer in world.prefix.layers)

    with_worker(run)
    name = world.prefix.plan.segments[1]
    world.cache.discard(name)

    async def miss(worker: WorkerHandle) -> None:
        with pytest.raises(WorkerOrderError) as raised:
            await deliver(worker, world.cache.url, world.prefix)
        assert raised.value.segment == name
        assert isinstance(raised.value.error, SegmentGoneError)

    with_worker(miss)


def test_damaged_extents_do_not_condemn_a_segment(tmp_path: Path) -> None:
    world = World(tmp_path)
    segments = world.prefix.plan.segments

    async def run(worker: WorkerHandle) -> None:
        first = await deliver(worker, world.cache.url, world.prefix)
        world.damage_extents()
        with world.cache.open(segments[0]) as reader, world.origin.open(segments[0]) as original:
            size_bytes = reader.info.size_bytes
            assert reader.read(0, size_bytes) != original.read(0, size_bytes)
        answer = await worker.ask("verify", store=world.cache.url, segments=segments)
        assert answer["damaged"] == []
        assert await deliver(worker, world.cache.url, world.prefix) == first

    with_worker(run)


def test_a_damaged_digest_row_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    name = world.prefix.plan.segments[0]
    geometry = world.prefix.plan.parts[0].runs[0].geometry
    data = bytearray(world.origin.get(name))
    data[geometry.row_offset(2)] ^= 1
    world.origin.put(name, data)

    async def run(worker: WorkerHandle) -> None:
        for _ in range(2):
            with pytest.raises(WorkerOrderError) as raised:
                await deliver(worker, world.cache.url, world.prefix)
            assert isinstance(raised.value.error, IntegrityError)
            assert raised.value.segment == name
            answer = await worker.ask("verify", store=world.cache.url, segments=[name])
            assert answer["damaged"] == [name]

    with_worker(run)
