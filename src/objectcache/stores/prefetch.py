"""Ranges of far objects that were asked for before they are read: in memory, up to a limit for the whole store."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock


class PrefetchBudget:
    """Bytes that readers of one store may hold in advance."""

    def __init__(self, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes
        self._lock = Lock()

    @property
    def free_bytes(self) -> int:
        return self._free_bytes

    def take(self, size_bytes: int) -> bool:
        with self._lock:
            if size_bytes > self._free_bytes:
                return False
            self._free_bytes -= size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._free_bytes += size_bytes


@dataclass(order=True, slots=True)
class Piece:
    """Bytes `start` to `stop`, on their way or here. `unread_bytes` falls as they are picked up."""

    start: int
    stop: int
    bytes_: Future[memoryview] = field(compare=False)
    unread_bytes: int = field(compare=False)


class Prefetched:
    """The pieces of one reader, disjoint and in order. Thread-safe.

    A piece leaves when it has been picked up, or dropped; its bytes count until nothing fetches them any more.
    """

    def __init__(self, budget: PrefetchBudget) -> None:
        self._budget = budget
        self._pieces: list[Piece] = []
        self._lock = Lock()
        self._closed = False

    def begin(
        self,
        start: int,
        stop: int,
        cut: Callable[[int, int], Iterable[tuple[int, int]]],
        fetch: Callable[[int, int], Future[memoryview]],
    ) -> None:
        """Fetch what of `start` to `stop` is not here yet, `cut` into pieces, as far as there is room.

        Raises RuntimeError from `fetch` when that takes no more work.
        """
        with self._lock:
            for gap_start, gap_stop in list(self._gaps(start, stop)):
                for at, end in cut(gap_start, gap_stop):
                    if self._closed or not self._budget.take(end - at):
                        return
                    try:
                        piece = Piece(at, end, fetch(at, end), end - at)
                    except RuntimeError:
                        self._budget.give_back(end - at)
                        raise
                    insort(self._pieces, piece)

    def overlapping(self, start: int, stop: int) -> list[Piece]:
        """Pieces that are here, or being fetched right now. Those that still wait for a thread are dropped: a read
        that needs them is faster itself."""
        with self._lock:
            found = [piece for piece in self._pieces if piece.start < stop and start < piece.stop]
            waiting = [piece for piece in found if piece.bytes_.cancel()]
            for piece in waiting:
                self._remove(piece)
            return [piece for piece in found if piece not in waiting]

    def picked_up(self, piece: Piece, size_bytes: int) -> None:
        with self._lock:
            piece.unread_bytes -= size_bytes
            if piece.unread_bytes <= 0:
                self._remove(piece)

    def drop(self, piece: Piece) -> None:
        with self._lock:
            self._remove(piece)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for piece in list(self._pieces):
                piece.bytes_.cancel()
                self._remove(piece)

    def _remove(self, piece: Piece) -> None:
        if piece in self._pieces:
            self._pieces.remove(piece)
            size_bytes = piece.stop - piece.start
            piece.bytes_.add_done_callback(lambda _: self._budget.give_back(size_bytes))

    def _gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        for piece in self._pieces:
            if piece.start < stop and start < piece.stop:
                if start < piece.start:
                    yield start, piece.start
                start = piece.stop
        if start < stop:
            yield start, stop
