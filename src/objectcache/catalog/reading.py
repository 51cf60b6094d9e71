"""What any process may ask of a catalog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from objectcache.catalog.environment import META, NAMES, NAMESPACES, POSITIONS, SEGMENTS, Environment
from objectcache.catalog.meta import load_meta
from objectcache.catalog.records import DamagedCatalogError, Run, SegmentRecord, pack_id, unpack_id
from objectcache.catalog.view import CatalogView, RecordCache
from objectcache.errors import RequestError
from objectcache.keys import KeyChain, Namespace

_PAGE = 256


@dataclass(frozen=True)
class CatalogStats:
    """`total_bytes` are those of the segments. `dangling_chunks` are index entries that wait for `sweep`."""

    segments: int
    chunks: int
    total_bytes: int
    dangling_chunks: int
    map_bytes: int
    file_bytes: int


class CatalogReading:
    """Look-ups; from any thread, each in one state of the catalog. Raises CatalogError when it cannot be read."""

    _environment: Environment
    _records: RecordCache

    def _dangles(self, part: bytes, entry: bytes) -> None:
        """An index entry was met whose segment is gone."""

    @contextmanager
    def view(self) -> Iterator[CatalogView]:
        """Several look-ups in one state of the catalog. A thread must not ask for anything else meanwhile."""
        with self._environment.read() as transaction:
            yield CatalogView(self._environment, transaction, self._records, self._dangles)

    def segment(self, id: int) -> SegmentRecord | None:
        """The visible segment of that id."""
        with self.view() as view:
            return view.segment(id)

    def segment_named(self, name: str) -> SegmentRecord | None:
        """The visible segment that is stored under `name`."""
        id = self.id_of(name)
        return None if id is None else self.segment(id)

    def segments(self) -> Iterator[SegmentRecord]:
        """All visible segments, oldest first. What changes on the way may or may not be seen."""
        after = 0
        while True:
            with self._environment.read() as transaction:
                cursor = transaction.cursor(self._environment.db(SEGMENTS))
                if not cursor.set_range(pack_id(after + 1)):
                    return
                page = [SegmentRecord.decode(unpack_id(id), data) for id, data in islice(cursor, _PAGE)]
            yield from page
            after = page[-1].id

    def id_of(self, name: str) -> int | None:
        """The id of the visible segment that is stored under `name`."""
        with self._environment.read() as transaction:
            found = transaction.get(name.encode(), db=self._environment.db(NAMES))
            return None if found is None else unpack_id(found)

    def names(self) -> Iterator[tuple[str, int]]:
        """Names and ids of all visible segments. What changes on the way may or may not be seen."""
        after = b""
        while True:
            with self._environment.read() as transaction:
                cursor = transaction.cursor(self._environment.db(NAMES))
                if not cursor.set_range(after + b"\0"):
                    return
                page = [(name, unpack_id(id)) for name, id in islice(cursor, _PAGE)]
            yield from ((name.decode(), id) for name, id in page)
            after = page[-1][0]

    def next_id(self) -> int:
        """Segments that become visible later have this id, or a larger one."""
        with self._environment.read() as transaction:
            return load_meta(transaction, self._environment.db(META)).next_id

    def find(self, key: bytes, group: int, shard: int) -> list[tuple[SegmentRecord, int]]:
        """All segments that hold the chunk, each with the chunk's index in it."""
        with self.view() as view:
            return view.find(key, group, shard)

    def match_part(self, chain: KeyChain, group: int, shard: int) -> list[Run]:
        """Where the chunks of `chain` (of the group's chunk size) are, from its first on, as far as they are stored."""
        with self.view() as view:
            return view.match_part(chain, group, shard)

    def resolve(self, namespace: bytes, group: int, shard: int, leaf: bytes, first: int, stop: int) -> tuple[Run, ...]:
        """Where chunks [first, stop) of the chain that ends in `leaf` are. Raises as `CatalogView.resolve`."""
        with self.view() as view:
            return view.resolve(namespace, group, shard, leaf, first, stop)

    def positions(self) -> dict[str, int]:
        """Up to which record each writer's log has been applied."""
        with self._environment.read() as transaction:
            cursor = transaction.cursor(self._environment.db(POSITIONS))
            return {writer.decode(): unpack_id(position) for writer, position in cursor}

    def namespace(self, digest: bytes) -> Namespace | None:
        """The namespace of that digest (32 bytes), if it is known here."""
        with self._environment.read() as transaction:
            found = transaction.get(digest, db=self._environment.db(NAMESPACES))
            return _namespace(found) if found else None

    def namespaces(self) -> list[Namespace]:
        """All that are known here."""
        with self._environment.read() as transaction:
            cursor = transaction.cursor(self._environment.db(NAMESPACES))
            return [_namespace(data) for _, data in cursor if data]

    def unread_namespaces(self) -> list[bytes]:
        """Digests of namespaces that segments belong to, but that are not known here."""
        with self._environment.read() as transaction:
            cursor = transaction.cursor(self._environment.db(NAMESPACES))
            return [digest for digest, data in cursor if not data]

    def stats(self) -> CatalogStats:
        with self._environment.read() as transaction:
            meta = load_meta(transaction, self._environment.db(META))
        return CatalogStats(
            segments=meta.segments,
            chunks=meta.chunks,
            total_bytes=meta.total_bytes,
            dangling_chunks=meta.dangling_chunks,
            map_bytes=self._environment.map_bytes,
            file_bytes=self._environment.file_bytes,
        )


def _namespace(data: bytes) -> Namespace:
    try:
        return Namespace.from_json(data)
    except RequestError as error:
        raise DamagedCatalogError(f"the catalog holds a namespace that is none: {error}") from error
