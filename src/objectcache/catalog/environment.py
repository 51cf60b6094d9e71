"""The LMDB environment under the catalog: a map that grows, errors as ours, and files that may be replaced.

LMDB wants no transaction open in this process while the map is resized, and an environment opened once per process:
a gate keeps transactions out meanwhile. Not to be used across a fork.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from objectcache.catalog.records import DamagedCatalogError
from objectcache.errors import CatalogError

_log = logging.getLogger(__name__)

T = TypeVar("T")

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
_MAX_READERS = 1024

CHUNKS = b"chunks"
SEGMENTS = b"segments"
NAMES = b"names"
NAMESPACES = b"namespaces"
TOUCHED = b"touched"
REMOVED = b"removed"
POSITIONS = b"positions"
META = b"meta"
_DATABASES = (CHUNKS, SEGMENTS, NAMES, NAMESPACES, TOUCHED, REMOVED, POSITIONS, META)

_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)


class _Gate:
    """Many may be inside, or one who closed it. Who waits to close it goes before who comes later."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._inside = 0
        self._closing = False

    def enter(self) -> None:
        with self._condition:
            while self._closing:
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._condition:
            self._inside -= 1
            if not self._inside and self._closing:
                self._condition.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        with self._condition:
            while self._closing:
                self._condition.wait()
            self._closing = True
            while self._inside:
                self._condition.wait()
        try:
            yield
        finally:
            with self._condition:
                self._closing = False
                self._condition.notify_all()


class Environment:
    """Databases by name, under transactions. Raises CatalogError for everything that LMDB raises.

    `damaged` is set once LMDB or a record has been found to be damaged. A reader follows when the writer replaces the
    files; `on_replaced` is called then. A thread must not begin a transaction inside another.
    """

    def __init__(
        self, path: Path, *, readonly: bool, map_bytes: int = 0, on_replaced: Callable[[], None] = lambda: None
    ) -> None:
        self._path = path
        self._data = path / DATA_FILE
        self.readonly = readonly
        self._map_bytes = map_bytes
        self._on_replaced = on_replaced
        self._gate = _Gate()
        self._writing = threading.Lock()
        self._env: lmdb.Environment | None = None
        self._inode = 0
        self._dbs: dict[bytes, Any] = {}
        self.damaged = False
        self._open()

    def _open(self) -> None:
        if self.readonly and not self._data.exists():
            raise CatalogError(f"there is no catalog at {self._path} (yet): its writer makes it")
        try:
            self._env = lmdb.open(
                str(self._path),
                # As large as the file, where that is larger; 0 in a reader takes the writer's.
                map_size=0 if self.readonly else max(self._map_bytes, self.file_bytes),
                readonly=self.readonly,
                create=not self.readonly,
                max_dbs=len(_DATABASES),
                max_readers=_MAX_READERS,
                # Nothing is lost by a process that dies; after a power loss the catalog is built anew (see state.py).
                sync=False,
                metasync=False,
                readahead=False,
            )
            try:
                self._env.reader_check()
                for name in _DATABASES:
                    many = name == CHUNKS  # a chunk may be in several segments
                    self._dbs[name] = self._env.open_db(name, create=not self.readonly, dupsort=many, dupfixed=many)
            except lmdb.MapFullError:
                raise CatalogError(f"a map of {self._map_bytes} bytes is too small for any catalog") from None
            except lmdb.Error:
                self._env.close()
                raise
            self._inode = self._data.stat().st_ino
        except lmdb.Error as error:
            raise self._translated(error) from error
        except OSError as error:
            raise CatalogError(f"the catalog at {self._path} cannot be opened: {error}") from error

    def _translated(self, error: lmdb.Error) -> CatalogError:
        if isinstance(error, _DAMAGE):
            self.damaged = True
            return DamagedCatalogError(f"the catalog at {self._path} is damaged: {error}")
        return CatalogError(f"the catalog at {self._path} cannot be used: {error}")

    @contextmanager
    def read(self) -> Iterator[lmdb.Transaction[bytes]]:
        """A read transaction: one state of the catalog."""
        if self.readonly:
            self._follow_replacement()
        self._gate.enter()
        try:
            with self._begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise self._translated(error) from error
        except DamagedCatalogError:
            self.damaged = True
            raise
        finally:
            self._gate.leave()

    def _begin(self) -> lmdb.Transaction[bytes]:
        while True:
            try:
                return self._opened.begin()
            except lmdb.MapResizedError:
                pass
            # The writer has grown the map beyond ours.
            self._gate.leave()
            try:
                with self._gate.closed():
                    self._opened.set_mapsize(0)
            finally:
                self._gate.enter()

    def _follow_replacement(self) -> None:
        try:
            if self._data.stat().st_ino == self._inode:
                return
        except OSError as error:
            raise CatalogError(f"the catalog at {self._path} is gone: {error}") from error
        with self._gate.closed():
            self._close()
            self._open()
            self._on_replaced()

    def write(self, work: Callable[[lmdb.Transaction[bytes]], T]) -> T:
        """Run `work` in a write transaction. When the map is full it grows and `work` runs again: it must have no
        other effects.
        """
        with self._writing:
            while True:
                self._gate.enter()
                try:
                    with self._opened.begin(write=True) as transaction:
                        return work(transaction)
                except lmdb.MapFullError:
                    pass
                except lmdb.Error as error:
                    raise self._translated(error) from error
                except DamagedCatalogError:
                    self.damaged = True
                    raise
                finally:
                    self._gate.leave()
                self._grow()

    def _grow(self) -> None:
        with self._gate.closed():
            if self._opened.reader_check():
                return  # pages that dead readers kept are free now: try again as we are
            size = 2 * self.map_bytes
            try:
                self._opened.set_mapsize(size)
            except lmdb.Error as error:
                raise self._translated(error) from error
        _log.info("the map of the catalog at %s has grown to %d bytes", self._path, size)

    @property
    def _opened(self) -> lmdb.Environment:
        if self._env is None:
            raise CatalogError(f"the catalog at {self._path} is closed")
        return self._env

    def db(self, name: bytes) -> Any:
        """The handle of a database, to be used within a transaction."""
        return self._dbs[name]

    @property
    def map_bytes(self) -> int:
        return self._opened.info()["map_size"]

    @property
    def file_bytes(self) -> int:
        """Bytes on disk."""
        return self._data.stat().st_size if self._data.exists() else 0

    def sync(self) -> None:
        """Return when everything is on the disk."""
        self._gate.enter()
        try:
            self._opened.sync(True)
        except lmdb.Error as error:
            raise self._translated(error) from error
        finally:
            self._gate.leave()

    def replace(self) -> None:
        """Begin anew, with empty files."""
        with self._writing, self._gate.closed():
            self._close()
            remove_files(self._path)
            self.damaged = False
            self._open()
            self._on_replaced()

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def close(self) -> None:
        with self._writing, self._gate.closed():
            self._close()


def remove_files(path: Path) -> None:
    """Remove the database of a catalog that is not open in this process. Raises CatalogError."""
    for name in (DATA_FILE, LOCK_FILE):
        try:
            (path / name).unlink(missing_ok=True)
        except OSError as error:
            raise CatalogError(f"the catalog at {path} cannot be removed: {error}") from error
