"""Shared memory as a target, against memcpy from a warm mapping of the same files, by as many threads in like pieces.

Warm without and with digests, and cold (the page cache dropped before each run) beside the disk's own read.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.result import Row, interleaved
from objectcache.bench.retrieve.layerwise import LayerwiseClient
from objectcache.bench.retrieve.rows import ratio_of, transfer_rows
from objectcache.bench.retrieve.settings import RetrieveSettings
from objectcache.bench.retrieve.subject import Subject
from objectcache.bench.transfer import Transfer
from objectcache.pages import FileWindow, populate
from objectcache.transports.shared_memory.mapped_files import IDLE_S
from objectcache.transports.shared_memory.placements import PLACED_BYTES

MEMCPY, SHM, SHM_VERIFIED = "memcpy from a warm mapping", "shared memory", "shared memory, verified"
SHM_COLD, DISK = "shared memory, cold", "the disk's own read"
_UNMAPPED_S = IDLE_S + 20.0
"""Well before, the gateway has let go of files that nobody reads: mapped pages cannot be dropped."""
_COLD_PAIRS = 9
"""At most, since each waits for that."""


@dataclass(frozen=True, slots=True)
class _Piece:
    file: int
    offset: int
    length: int
    at: int


class BareCopy(AbstractContextManager["BareCopy"]):
    """The bytes of a prefix, into memory that is used again, by as many threads as there are streams."""

    def __init__(self, subject: Subject) -> None:
        self._prefix, self._width = subject.prefix, subject.settings.streams
        self._stack = ExitStack()
        prefix = subject.prefix
        try:
            self._files = [os.open(path, os.O_RDONLY) for path in _paths(subject)]
            for file in self._files:
                self._stack.callback(os.close, file)
            self._memory = memoryview(self._stack.enter_context(mmap.mmap(-1, prefix.payload_bytes)))
            self._stack.callback(self._memory.release)
            populate(self._memory)
            self._threads = self._stack.enter_context(ThreadPoolExecutor(self._width, thread_name_prefix="copy"))
        except BaseException:
            self._stack.close()
            raise

    def drop_cache(self) -> None:
        """Nothing of the prefix is in the page cache afterwards. Raises BenchmarkError when that cannot be had."""
        until_s = time.monotonic() + _UNMAPPED_S
        for file in self._files:
            os.fsync(file)
            while True:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                window = FileWindow(file, 0, os.fstat(file).st_size)
                left = window.resident_pages()
                window.close()
                if not left:
                    break
                if time.monotonic() > until_s:
                    raise BenchmarkError(f"{left} pages of a segment cannot be dropped from the page cache")
                time.sleep(0.1)

    def read(self, chunks: int) -> Transfer:
        """By preadv, whatever is in the page cache."""
        return self._run(chunks, self._read_piece)

    @contextmanager
    def mapped(self) -> Iterator[Callable[[int], Transfer]]:
        """By memcpy from a mapping that has been read once."""
        with ExitStack() as stack:
            windows = []
            for file in self._files:
                windows.append(FileWindow(file, 0, os.fstat(file).st_size))
                stack.callback(windows[-1].close)
            copy = partial(self._copy_piece, windows)
            run = partial(self._run, copy=copy)
            run(len(self._prefix.chain))
            yield run

    def _read_piece(self, piece: _Piece) -> None:
        done = 0
        while done < piece.length:
            out = self._memory[piece.at + done : piece.at + piece.length]
            count = os.preadv(self._files[piece.file], [out], piece.offset + done)
            if not count:
                raise BenchmarkError("a segment is shorter than its header says")
            done += count

    def _copy_piece(self, windows: list[FileWindow], piece: _Piece) -> None:
        out = np.frombuffer(self._memory[piece.at : piece.at + piece.length], np.uint8)
        np.copyto(out, windows[piece.file].data[piece.offset : piece.offset + piece.length])

    def _run(self, chunks: int, copy: Callable[[_Piece], None]) -> Transfer:
        pieces = list(self._pieces(chunks))
        threads = self._width

        def work(thread: int) -> None:
            for piece in pieces[thread::threads]:
                copy(piece)

        cpu_s = time.process_time()
        start_s = time.perf_counter()
        list(self._threads.map(work, range(threads)))
        seconds = time.perf_counter() - start_s
        total_bytes = sum(piece.length for piece in pieces)
        return Transfer(start_s, seconds, total_bytes, time.process_time() - cpu_s, 0.0)

    def _pieces(self, chunks: int) -> Iterator[_Piece]:
        """Layer by layer, in the pieces in which a worker places them."""
        at = 0
        for position in range(len(self._prefix.headers[0].layers)):
            for file, header in enumerate(self._prefix.headers):
                taken = min(header.num_chunks, chunks - header.depth)
                if taken <= 0:
                    break
                begin, size = header.geometry.slice_offset(position, 0), header.slice_bytes[position]
                step = max(1, PLACED_BYTES // size) * size
                for offset in range(0, taken * size, step):
                    length = min(step, taken * size - offset)
                    yield _Piece(file, begin + offset, length, at)
                    at += length

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def shared_memory_steps(settings: RetrieveSettings) -> int:
    """How often `measured` is called."""
    cold = 0 if settings.quick else 2 * min(settings.pairs, _COLD_PAIRS)
    return cold + 3 * settings.pairs * len(settings.samples()[0].contexts)


def shared_memory_rows(subject: Subject, measured: Callable[[], None]) -> tuple[list[Row], dict[str, float]]:
    """Rows of all contexts, and `shm_ratio` by shape and context. Raises ObjectCacheError."""
    rows: list[Row] = []
    ratios = {}
    shared = replace(subject, settings=replace(subject.settings, target="shm", receiver="threads"))
    with ExitStack() as stack:
        bare = stack.enter_context(BareCopy(subject))
        clients = {}
        for way, verify in ((SHM, "off"), (SHM_VERIFIED, "all")):
            cache = shared.client(verify=verify)
            stack.callback(cache.close)
            clients[way] = LayerwiseClient(cache, subject.gateway, subject.prefix).warmed()
        if not subject.settings.quick:
            rows += _cold(subject, bare, clients[SHM_VERIFIED], measured)
        with bare.mapped() as memcpy:
            for context in subject.sampled.contexts:
                chunks = subject.sampled.shape.chunks(context)
                for client in clients.values():
                    client.retrieve(chunks)  # the worker's mapping is warm, as ours is
                ways: dict[str, Callable[[], Transfer]] = {MEMCPY: partial(memcpy, chunks)}
                ways |= {way: partial(client.retrieve, chunks) for way, client in clients.items()}
                found = _measured(subject, context, ways, measured, subject.settings.pairs)
                name = subject.sampled.name(context)
                compared = {way: ratio_of(name, found, way, MEMCPY) for way in clients}
                rows += [*found, *compared.values()]
                ratios[name] = compared[SHM]["median"]
    return rows, ratios


def _cold(subject: Subject, bare: BareCopy, client: LayerwiseClient, measured: Callable[[], None]) -> list[Row]:
    context = subject.sampled.contexts[-1]
    chunks = subject.sampled.shape.chunks(context)

    def cold(run: Callable[[int], Transfer]) -> Transfer:
        bare.drop_cache()
        return run(chunks)

    ways = {DISK: partial(cold, bare.read), SHM_COLD: partial(cold, client.retrieve)}
    rows = _measured(subject, context, ways, measured, min(subject.settings.pairs, _COLD_PAIRS))
    return [*rows, ratio_of(subject.sampled.name(context), rows, SHM_COLD, DISK)]


def _measured(
    subject: Subject,
    context: int,
    ways: Mapping[str, Callable[[], Transfer]],
    measured: Callable[[], None],
    rounds: int,
) -> list[Row]:
    transfers = interleaved(ways, rounds, lambda way: measured())
    about = subject.sampled.about | {"context_tokens": context}
    return transfer_rows(subject.sampled.name(context), transfers, about)


def _paths(subject: Subject) -> list[Path]:
    """Files of the prefix's segments."""
    with subject.gateway.open_store() as store, ExitStack() as stack:
        paths = []
        for header in subject.prefix.headers:
            reader = stack.enter_context(store.open(header.name))
            ranges = stack.enter_context(reader.files(0, header.total_bytes))
            assert ranges is not None
            paths.append(Path(f"/proc/self/fd/{ranges[0].descriptor}").resolve())
        return paths
