"""The catalog of one gateway or engine: which segment holds which chunk. A replay of the logs, rebuildable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import lmdb

from objectcache.catalog.batch import Batch
from objectcache.catalog.environment import CHUNKS, REMOVED, SEGMENTS, Environment, remove_files
from objectcache.catalog.filling import Filling
from objectcache.catalog.grouping import grouped
from objectcache.catalog.loading import IndexLoad
from objectcache.catalog.meta import Meta, load_meta, save_meta
from objectcache.catalog.reading import CatalogReading
from objectcache.catalog.recency import Recency, least_recent
from objectcache.catalog.records import DamagedCatalogError, SegmentRecord
from objectcache.catalog.state import WriterSeat
from objectcache.catalog.view import RecordCache
from objectcache.errors import CatalogError, ObjectCacheError
from objectcache.keys import Namespace
from objectcache.logrecord import LogRecord
from objectcache.names import segment_name
from objectcache.snapshot import Snapshot

_log = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT_VERSION = 2
MAP_BYTES = 64 << 20
"""The map's first size. It doubles when it is full."""
CACHED_RECORDS = 4096

_MOST_WAITING = 8192
"""Uses of segments, or dangling entries met, that wait for the next transaction."""


class Catalog(CatalogReading, AbstractContextManager["Catalog"]):
    """Open with `Catalog.open`. One process writes, from any of its threads; others may have it open read-only.

    Not to be open twice in one process, nor to be used in a forked child. Raises CatalogError.
    """

    def __init__(self, path: Path, seat: WriterSeat | None, map_bytes: int, cached_records: int) -> None:
        """For `open`."""
        self.path = path
        self._seat = seat
        self._records = RecordCache(cached_records)
        self._recency = Recency()
        self._dangling: dict[tuple[bytes, bytes], None] = {}
        self._swept: tuple[bytes, bytes] | None = None
        self._next_id = 1
        self._restoring = False
        self._replaying = threading.RLock()  # whoever makes segments visible
        self._closed = False
        self._environment = Environment(
            path, self._prepare, readonly=seat is None, map_bytes=map_bytes, on_replaced=self._forget_cached
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        readonly: bool = False,
        map_bytes: int = MAP_BYTES,
        cached_records: int = CACHED_RECORDS,
    ) -> Catalog:
        """The catalog in the directory `path`, which the writer makes when it is not there.

        A database that may be torn, is damaged or is of another format is discarded, and the catalog begins empty: a
        follower fills it again. Raises CatalogError when another process writes it (saying which), or for `readonly`
        when there is none yet.
        """
        path = Path(path)
        if readonly:
            return cls(path, None, map_bytes, cached_records)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CatalogError(f"the catalog's directory {path} cannot be made: {error}") from error
        seat = WriterSeat(path)
        try:
            if not seat.trusted:
                remove_files(path)
            try:
                return cls(path, seat, map_bytes, cached_records)
            except DamagedCatalogError as error:
                _log.warning("discarded, to be built anew: %s", error)
                remove_files(path)
                return cls(path, seat, map_bytes, cached_records)
        except CatalogError:
            seat.close(None)
            raise

    def _prepare(self, transaction: lmdb.Transaction[bytes], db: Any) -> None:
        """Begin, or check what is there. Raises DamagedCatalogError when it must be discarded."""
        if self._seat is not None and not transaction.stat(db)["entries"]:
            save_meta(transaction, db, Meta(FORMAT_VERSION, next_id=self._next_id))
        meta = load_meta(transaction, db)
        if meta.format != FORMAT_VERSION:
            raise DamagedCatalogError(f"the catalog at {self.path} is of format {meta.format}, not {FORMAT_VERSION}")
        if self._seat is not None and not meta.complete:
            raise DamagedCatalogError(f"the catalog at {self.path} was not filled to the end")
        self._next_id = meta.next_id

    def _forget_cached(self) -> None:
        self._records.clear()
        self._recency.clear()
        self._dangling.clear()

    @property
    def _writer(self) -> WriterSeat:
        if self._seat is None:
            raise CatalogError(f"the catalog at {self.path} is open read-only")
        return self._seat

    def _check_writable(self) -> None:
        _ = self._writer

    @property
    def damaged(self) -> bool:
        """Whether it must be built anew: damage has been found, or it was not filled to the end."""
        return self._environment.damaged or self._restoring

    # -- replay -----------------------------------------------------------------------------------

    def apply(self, records: Iterable[LogRecord], *, now_s: float | None = None) -> int:
        """Apply log records, each writer's in sequence, passing over those applied before. Returns how many were new.

        Done in large transactions, each with the positions that follow from it; a catalog that is empty is filled as a
        whole, and discarded when the process dies before that is done. `now_s` (default: the present) is when
        the segments count as last used, as do those they stand on. Raises CatalogError also for a record whose
        predecessor has not been applied, and what `records` raises.
        """
        self._check_writable()
        moment_s = time.time() if now_s is None else now_s
        with self._replaying:
            applied = self._apply(grouped(records), moment_s)
            if applied and self._removals_waiting():
                self._write(Batch.settle_removals, moment_s)
        return applied

    def _apply(self, groups: Iterator[list[LogRecord]], now_s: float) -> int:
        group, applied = next(groups, None), 0
        if group is not None and self._is_empty():
            try:
                more = next(groups, None)
            except ObjectCacheError:
                self._write(partial(Batch.apply_all, records=group), now_s)
                raise
            if more is not None:
                return self._fill(chain([group, more], groups), now_s)
        while group is not None:
            applied += self._write(partial(Batch.apply_all, records=group), now_s)
            group = next(groups, None)
        return applied

    def _is_empty(self) -> bool:
        with self._environment.read() as transaction:
            return not any(transaction.stat(self._environment.db(name))["entries"] for name in (SEGMENTS, CHUNKS))

    def _fill(self, groups: Iterable[list[LogRecord]], now_s: float) -> int:
        """As `_apply`, where there is more than a transaction takes and nothing yet."""
        with self._filling() as filling:
            return filling.take_all((partial(Batch.apply_all, records=group) for group in groups), now_s)

    @contextmanager
    def _filling(self) -> Iterator[Filling]:
        """The catalog is empty; until it is filled it counts as damaged."""
        self._restoring = True
        with Filling(self.path, self._environment, self._write) as filling:
            try:
                yield filling
            finally:
                self._restoring = not filling.finished

    def _removals_waiting(self) -> int:
        with self._environment.read() as transaction:
            return transaction.stat(self._environment.db(REMOVED))["entries"]

    def restore(self, snapshot: Snapshot, *, now_s: float | None = None) -> None:
        """Begin anew with a snapshot. Its segments count as last used at `now_s` (default: the present).

        Raises IntegrityError or StoreError when it cannot be read to its end: `reset`, or restore another.
        """
        moment_s = time.time() if now_s is None else now_s
        with self._replaying:
            self.reset()
            with self._filling() as filling:
                for group in grouped(snapshot.parts()):
                    filling.take(partial(Batch.load, parts=group), moment_s)
                filling.finish(snapshot.positions)

    def reset(self) -> None:
        """Begin anew, empty. Segment ids go on: those that somebody still holds become nobody else's."""
        self._check_writable()
        with self._replaying:
            self._environment.replace()
            self._swept = None
            self._restoring = False

    def drop(self, name: str) -> bool:
        """Forget the segment stored under `name`, which is gone from the store. Whether it was known."""
        return self._write(partial(Batch.forget, name=name), 0.0)

    def add_namespace(self, namespace: Namespace) -> None:
        """Remember what a digest stands for."""
        self._write(partial(Batch.put_namespace, namespace=namespace), 0.0)

    def sweep(self, max_entries: int = 1 << 14) -> int:
        """One bounded step of removing index entries of segments that are gone. Returns how many it removed."""
        if not self.stats().dangling_chunks:
            return 0
        removed, self._swept = self._write(partial(Batch.sweep, after=self._swept, max_entries=max_entries), 0.0)
        return removed

    def _dangles(self, part: bytes, entry: bytes) -> None:
        if self._seat is not None and len(self._dangling) < _MOST_WAITING:
            self._dangling[part, entry] = None

    def _write(self, work: Callable[[Batch], T], now_s: float, load: IndexLoad | None = None) -> T:
        self._check_writable()
        times_s, dangling = self._recency.waiting(), list(self._dangling)

        def run(transaction: lmdb.Transaction[bytes]) -> tuple[T, Batch]:
            batch = Batch(self._environment, transaction, now_s)
            batch.touch(times_s)
            batch.remove_dangling(dangling)
            if load is not None:
                batch.begin_load()
            result = work(batch)
            batch.finish(indexed=load is None)
            return result, batch

        result, batch = self._environment.write(run)
        if load is not None:
            for id, header in batch.new.items():
                load.add(id, header)
        self._next_id = max(self._next_id, batch.meta.next_id)
        self._recency.written(times_s)
        for entry in dangling:
            self._dangling.pop(entry, None)
        return result

    # -- recency ----------------------------------------------------------------------------------

    def touch(self, segment_ids: Iterable[int], now_s: float) -> None:
        """Segments were used at `now_s` (Unix time). Whoever touches one also touches what it stands on, so that leaves
        are evicted before their prefixes. Kept in memory until the next transaction.
        """
        self._check_writable()
        if self._recency.touch(segment_ids, now_s) > _MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Write the uses that are kept in memory."""
        self._write(lambda batch: None, 0.0)

    def eviction_order(self, pinned: Container[int] = ()) -> Iterator[SegmentRecord]:
        """What to evict first: least recently used, of those used together the deepest in its chain; not `pinned` ids.

        Lazy: `pinned` is asked when a segment's turn comes, and one that was used or is gone by then is passed over.
        """
        self.flush()
        return least_recent(self._environment, self._records, self._recency, pinned)

    # -- names ------------------------------------------------------------------------------------

    @property
    def writer_id(self) -> str:
        """Under which this catalog's process writes segments and its log: made once, kept in the directory."""
        return self._writer.writer_id

    def next_segment_sequence(self) -> int:
        """A sequence for a segment's name that was never given out before, whatever happened in between."""
        return self._writer.next_sequence()

    def next_segment_name(self) -> str:
        """A name for a new segment, with such a sequence."""
        return segment_name(self.writer_id, self.next_segment_sequence())

    # -- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what waits and let go. Harmless when closed already."""
        if self._closed:
            return
        self._closed = True
        data_bytes = None
        try:
            if self._seat is not None and not self.damaged:
                self.flush()
                self._environment.sync()
                data_bytes = self._environment.file_bytes
        finally:
            self._environment.close()
            if self._seat is not None:
                self._seat.close(data_bytes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
