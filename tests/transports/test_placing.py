"""Placing in a client's memory: it verifies where it lies, and no stream ends in the middle of a copy."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.buffers import BufferPool
from objectcache.delivery import Delivery
from objectcache.errors import DeliveryCancelledError, DeliveryError, IntegrityError, ObjectCacheError
from objectcache.keys import KeyChain
from objectcache.layout import LayerRow, piece_chunks
from objectcache.pages import FileWindow
from objectcache.stores import FileRange, FileStore, MemoryStore, Store
from objectcache.transports import Expected, ExpectedPart
from objectcache.transports.pacing import Pace
from objectcache.transports.shared_memory import (
    ClientMemory,
    MappedFiles,
    MappedPiece,
    PlacedReceiver,
    PlacingDelivery,
    PlacingSession,
    mapped_files,
)
from objectcache.transports.shared_memory.placements import PLACED_BYTES, PlacingBody, placements_of, together
from objectcache.transports.sockets import recv_exact
from objectcache.workers.open_objects import OpenObjects
from tests.gateway.process import eventually
from tests.segments import random_chain
from tests.transports.sending import PATIENCE_S, StoredPrefix, store_prefix

SEGMENTS, CHUNKS, LAYERS, SLICE_BYTES = 3, 8, 4, 300_000


def stored(store: Store) -> StoredPrefix:
    return store_prefix(store, 1, segments=SEGMENTS, chunks=CHUNKS, layers=LAYERS, slice_bytes=SLICE_BYTES)


class SlowFiles(MappedFiles):
    """Copies wait for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.begun = threading.Event()

    def copy(self, file: FileRange, out: memoryview) -> None:
        self.begun.set()
        assert self.go.wait(PATIENCE_S)
        super().copy(file, out)


@dataclass
class Told:
    units: list[int] = field(default_factory=list)
    errors: list[ObjectCacheError] = field(default_factory=list)
    fenced: threading.Event = field(default_factory=threading.Event)


class World:
    """A worker's session and a client's receiver, over socket pairs."""

    def __init__(self, store: Store, prefix: StoredPrefix, files: MappedFiles, streams: int = 2) -> None:
        self.prefix, self.store = prefix, store
        self.pool = BufferPool(2 * prefix.plan.geometry.total_bytes)
        self.lost = threading.Event()
        self.session = PlacingSession(streams, ClientMemory(self.pool.fileno()), files, self.lost.set)
        self.receiver = PlacedReceiver()
        self.objects = OpenObjects()
        self.outcomes: list[ObjectCacheError | None] = []
        self.ends: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        for stream in range(streams):
            mine, theirs = socket.socketpair()
            self.ends.append(mine)
            assert self.session.attach(stream, theirs)
            self.threads.append(threading.Thread(target=self._receive, args=(stream, mine)))
            self.threads[-1].start()

    def _receive(self, stream: int, sock: socket.socket) -> None:
        try:
            self.receiver.run(stream, lambda out: recv_exact(sock, out))
        except ObjectCacheError as error:
            self.receiver.lost(stream, error)

    def deliver(self, pace: Pace | None = None) -> tuple[memoryview, Told]:
        plan, told = self.prefix.plan, Told()
        buffer = self.pool.allocate(plan.geometry.total_bytes)
        keys = [key for number in range(SEGMENTS) for key in random_chain(100 + number, CHUNKS)]
        part = ExpectedPart(0, 0, KeyChain(b"".join(keys)))
        self.receiver.expect(
            Expected(
                *(1, 0, plan.geometry, [part], buffer.view, len(self.ends)),
                *(told.units.append, told.errors.append, told.fenced.set),
                shared=True,
            )
        )
        state = Delivery(streams=len(self.ends), credit_bytes=0, deadline_s=time.monotonic() + PATIENCE_S)
        held = self.objects.hold(self.store, plan.segment_bytes)
        spans = placements_of(plan, held.readers, 1, 0)

        def over(error: ObjectCacheError | None) -> None:
            held.release()
            self.outcomes.append(error)

        active = PlacingDelivery(
            *(1, 0, state, spans, over), geometry=plan.geometry, offset=buffer.offset, far=self.store.far, pace=pace
        )
        self.session.add(active)
        return buffer.view, told

    def landed(self, view: memoryview) -> bool:
        geometry = self.prefix.plan.geometry
        return all(
            view[geometry.offset(0, layer) : geometry.offset(0, layer) + len(data)] == data
            for layer, data in enumerate(self.prefix.layers)
        )

    def close(self) -> None:
        self.session.close()
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        for sock in self.ends:
            sock.close()
        eventually(self.lost.is_set, "the session has ended")
        self.pool.close()


@pytest.fixture
def files() -> SlowFiles:
    return SlowFiles()


@pytest.fixture
def world(tmp_path: Path, files: SlowFiles) -> Iterator[World]:
    with FileStore(tmp_path) as store:
        made = World(store, stored(store), files)
        yield made
        files.go.set()
        made.close()


def test_all_layers_land_and_verify(world: World, files: SlowFiles) -> None:
    files.go.set()
    for _ in range(2):  # the second time, all is mapped
        view, told = world.deliver()
        assert told.fenced.wait(PATIENCE_S)
        assert (sorted(told.units), told.errors) == ([0, 1, 2, 3], [])
        assert world.landed(view)
    eventually(lambda: world.outcomes == [None, None], "they end well")
    assert 0 < files.mapped_bytes <= SEGMENTS * mapped_files.WINDOW_BYTES


def test_a_store_without_files() -> None:
    with MemoryStore() as store:
        world = World(store, stored(store), MappedFiles(), streams=1)
        view, told = world.deliver()
        assert told.fenced.wait(PATIENCE_S)
        assert world.landed(view)
        world.close()


def test_wrong_bytes_are_noticed_where_they_lie(world: World, files: SlowFiles) -> None:
    segment = world.prefix.plan.segments[1]
    with world.store.open(segment) as reader, reader.files(0, reader.info.size_bytes) as ranges:
        assert ranges is not None
        path = os.readlink(f"/proc/self/fd/{ranges[0].descriptor}")
    geometry = world.prefix.plan.parts[0].runs[1].geometry
    with open(path, "r+b") as file:
        file.seek(geometry.slice_offset(2, 5))
        file.write(b"no")
    files.go.set()
    _, told = world.deliver()
    assert told.fenced.wait(PATIENCE_S)
    assert [type(error) for error in told.errors] == [IntegrityError]
    assert 2 not in told.units


def test_a_cancelled_delivery_is_quiet_and_fenced_only_after_its_copies(world: World, files: SlowFiles) -> None:
    _, told = world.deliver()
    assert files.begun.wait(PATIENCE_S)
    assert world.receiver.cancel(1, 0) == {0, 1}
    assert not world.session.cancel(1, 0, 0.1)
    assert not told.fenced.wait(0.1)
    files.go.set()
    assert world.session.cancel(1, 0, PATIENCE_S)
    assert told.fenced.wait(PATIENCE_S)
    eventually(lambda: [type(error) for error in world.outcomes] == [DeliveryCancelledError], "it was cancelled")
    assert not world.lost.is_set()


@pytest.mark.parametrize("cut", ["close", "reap"])
def test_a_stream_that_is_cut_ends_only_after_its_copy(world: World, files: SlowFiles, cut: str) -> None:
    """What the client sees of it: the end of a stream says that nothing is written on its behalf any more."""
    _, told = world.deliver()
    assert files.begun.wait(PATIENCE_S)
    ways: dict[str, Callable[[], None]] = {
        "close": world.session.close,
        "reap": lambda: world.session.reap(time.monotonic() + 1e6),
    }
    ways[cut]()
    assert not told.fenced.wait(0.2)
    assert not world.lost.is_set()
    files.go.set()
    assert told.fenced.wait(PATIENCE_S)
    eventually(world.lost.is_set, "the session has ended")
    with pytest.raises(ValueError, match="released"):
        world.session.memory.view[:1]


# -- what is placed together ------------------------------------------------------------------------


@given(st.data(), st.integers(1, 3 << 20), st.integers(1, 200))
def test_placements_cover_what_is_wanted_with_the_digests_of_it(data: st.DataObject, size: int, chunks: int) -> None:
    row = LayerRow(chunks, size)
    first = data.draw(st.integers(0, chunks - 1))
    stop = data.draw(st.integers(first + 1, chunks))
    at = first
    for begin, end, digests in together(row, row.spans(first, stop)):
        assert begin == at < end
        at = end
        assert (end - begin) * size <= PLACED_BYTES or end - begin == 1 or len(digests) == 1
        per_piece = piece_chunks(size)
        if digests.stop <= row.num_pieces:
            assert digests == range(begin // per_piece, -(-end // per_piece))
            assert (end - begin - 1) // per_piece + 1 == len(digests)
            assert begin % per_piece == 0
            assert end % per_piece == 0 or end == chunks
        else:
            assert digests == range(row.num_pieces + begin, row.num_pieces + end)
    assert at == stop


# -- mapped files -----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, bytes]]:
    monkeypatch.setattr(mapped_files, "WINDOW_BYTES", 1 << 16)
    content = np.random.default_rng(1).bytes(10 << 16)
    path = tmp_path / "file"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor, content
    os.close(descriptor)


@given(offset=st.integers(0, 10 << 16), length=st.integers(0, 10 << 16))
def test_any_range_of_a_file(tmp_path_factory: pytest.TempPathFactory, offset: int, length: int) -> None:
    content = np.random.default_rng(1).bytes(10 << 16)
    path = tmp_path_factory.getbasetemp() / "ranges"
    if not path.exists():
        path.write_bytes(content)
    length = min(length, len(content) - offset)
    descriptor = os.open(path, os.O_RDONLY)
    files = MappedFiles()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mapped_files, "WINDOW_BYTES", 1 << 16)
            out = memoryview(bytearray(length))
            files.copy(FileRange(descriptor, offset, length), out)
        assert out == content[offset : offset + length]
    finally:
        os.close(descriptor)
        files.close_idle(time.monotonic() + 1e6)
        assert files.mapped_bytes == 0


def test_what_is_mapped_is_bounded_and_the_least_used_goes(file: tuple[int, bytes]) -> None:
    descriptor, content = file
    files = MappedFiles(limit_bytes=3 << 16)
    out = memoryview(bytearray(100))
    for window in (0, 1, 2, 0, 3, 4, 0, 9):
        files.copy(FileRange(descriptor, window << 16, 100), out)
        assert out == content[window << 16 : (window << 16) + 100]
        assert files.mapped_bytes <= 3 << 16
    assert [key[2] for key in files._entries] == [4, 0, 9]


def test_what_nobody_uses_is_unmapped(file: tuple[int, bytes]) -> None:
    descriptor, _ = file
    files = MappedFiles()
    files.copy(FileRange(descriptor, 0, 100), memoryview(bytearray(100)))
    files.close_idle(time.monotonic())
    assert files.mapped_bytes == 1 << 16
    files.close_idle(time.monotonic() + mapped_files.IDLE_S + 1)
    assert files.mapped_bytes == 0


def test_what_is_not_in_the_page_cache_is_read(file: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor, content = file
    files = MappedFiles()
    monkeypatch.setattr(FileWindow, "resident", lambda self, offset, length: False)
    out = memoryview(bytearray(len(content)))
    files.copy(FileRange(descriptor, 0, len(content)), out)
    assert out == content


@given(offset=st.integers(0, 10 << 16), length=st.integers(0, 10 << 16))
def test_where_a_range_of_a_file_lies(tmp_path_factory: pytest.TempPathFactory, offset: int, length: int) -> None:
    content = np.random.default_rng(1).bytes(10 << 16)
    path = tmp_path_factory.getbasetemp() / "held"
    if not path.exists():
        path.write_bytes(content)
    length = min(length, len(content) - offset)
    files = MappedFiles(limit_bytes=1 << 16)
    with path.open("rb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped_files, "WINDOW_BYTES", 1 << 16)
        with ExitStack() as stack:
            pieces = files.hold(FileRange(file.fileno(), offset, length), stack)
            assert pieces is not None
            files.close_idle(inf)
            found = b"".join(ctypes.string_at(piece.address, piece.length) for piece in pieces)
            assert found == content[offset : offset + length]
        files.close_idle(inf)
    assert files.mapped_bytes == 0


def test_what_is_not_in_the_page_cache_is_not_held(file: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor, content = file
    files = MappedFiles()
    monkeypatch.setattr(FileWindow, "resident", lambda self, offset, length: offset == 0)
    with ExitStack() as stack:
        assert files.hold(FileRange(descriptor, 10, len(content) - 10), stack) is None
        files.close_idle(inf)
        assert files.mapped_bytes == 0
        with pytest.raises(IntegrityError):
            files.hold(FileRange(descriptor, 10, len(content)), stack)


def test_a_file_that_is_cut_short_is_damage(file: tuple[int, bytes], tmp_path: Path) -> None:
    descriptor, content = file
    files = MappedFiles()
    out = memoryview(bytearray(len(content)))
    files.copy(FileRange(descriptor, 0, len(content)), out)
    os.truncate(tmp_path / "file", 5 << 16)
    with pytest.raises(IntegrityError):
        files.copy(FileRange(descriptor, 0, len(content)), out)
    with pytest.raises(IntegrityError):
        files.copy(FileRange(descriptor, 6 << 16, 100), out[:100])


class _OfTwoFiles:
    """An object whose bytes lie in two files."""

    def __init__(self, paths: list[Path]) -> None:
        self.info = type("Info", (), {"name": "an object"})
        self._paths = paths

    @contextmanager
    def files(self, offset: int, length: int) -> Iterator[list[FileRange]]:
        descriptors = [os.open(path, os.O_RDONLY) for path in self._paths]
        yield [FileRange(descriptor, 0, length // 2) for descriptor in descriptors]
        for descriptor in descriptors:
            os.close(descriptor)


class _RefusesTheSecond(MappedFiles):
    asked = 0

    def hold(self, file: FileRange, stack: ExitStack) -> list[MappedPiece] | None:
        self.asked += 1
        if self.asked == 2:
            raise DeliveryError("no more memory of files")
        return super().hold(file, stack)


def test_what_could_not_be_held_is_placed_from_where_it_began(tmp_path: Path) -> None:
    paths = [tmp_path / "first", tmp_path / "second"]
    for path, byte in zip(paths, b"ab", strict=True):
        path.write_bytes(bytes([byte]) * 8192)
    files, out = _RefusesTheSecond(), memoryview(bytearray(16384))
    reader: Any = _OfTwoFiles(paths)
    body = PlacingBody(reader, 0, 16384)
    with body:
        with ExitStack() as stack, pytest.raises(DeliveryError):
            body.hold_mapped(16384, files, stack)
        body.place(out, files)
    assert bytes(out) == b"a" * 8192 + b"b" * 8192
