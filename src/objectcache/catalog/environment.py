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
from typing import Any, NamedTuple, TypeVar

import lmdb

from objectcache.catalog.gate import Gate
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


class _NotThereYetError(CatalogError):
    """The writer has not made the files, or is making them."""


class _Files(NamedTuple):
    env: lmdb.Environment
    dbs: dict[bytes, Any]
    data_inode: int


class Environment:
    """Databases by name, under transactions. Raises CatalogError for everything that LMDB raises.

    `prepare` is given the first transaction on the files, and the META database: it writes what is to be there from
    the start, or raises. `damaged` is set once LMDB or a record has been found to be damaged. A reader follows when
    the writer replaces the files; `on_replaced` is called then. A thread must not begin a transaction inside another.
    """

    def __init__(
        self,
        path: Path,
        prepare: Callable[[lmdb.Transaction[bytes], Any], None],
        *,
        readonly: bool,
        map_bytes: int = 0,
        on_replaced: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._data = path / DATA_FILE
        self._prepare = prepare
        self.readonly = readonly
        self._map_bytes = map_bytes
        self._on_replaced = on_replaced
        self._gate = Gate()
        self._writing = threading.Lock()
        self.damaged = False
        self._files: _Files | None = self._open()

    def _open(self) -> _Files:
        """Raises _NotThereYetError (to a reader), DamagedCatalogError, CatalogError."""
        before = self._identity()
        if self.readonly and before is None:
            raise _NotThereYetError(f"there is no catalog at {self._path} (yet): its writer makes it")
        try:
            env = lmdb.open(
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
                return self._opened_databases(env, before)
            except (lmdb.Error, CatalogError):
                env.close()
                raise
        except lmdb.MapFullError as error:
            raise CatalogError(f"a map of {self._map_bytes} bytes is too small for any catalog") from error
        except lmdb.Error as error:
            raise self._translated(error) from error

    def _opened_databases(self, env: lmdb.Environment, before: tuple[int, int] | None) -> _Files:
        env.reader_check()
        if self.readonly:
            dbs = self._databases(env, None)
            with env.begin() as transaction:
                self._prepare(transaction, dbs[META])
        else:
            with env.begin(write=True) as transaction:  # one, so that readers find all or nothing
                dbs = self._databases(env, transaction)
                self._prepare(transaction, dbs[META])
        after = self._identity()
        # The data of one writer under the reader table of another would be overwritten while it is read.
        if after is None or (self.readonly and after != before):
            raise _NotThereYetError(f"the catalog at {self._path} is just being replaced")
        return _Files(env, dbs, after[0])

    def _databases(self, env: lmdb.Environment, transaction: lmdb.Transaction[bytes] | None) -> dict[bytes, Any]:
        dbs = {}
        for name in _DATABASES:
            many = name == CHUNKS  # the entries of a part: of one size, and LMDB packs what is
            try:
                dbs[name] = env.open_db(name, transaction, create=not self.readonly, dupsort=many, dupfixed=many)
            except (lmdb.NotFoundError, lmdb.ReadonlyError) as error:
                raise _NotThereYetError(f"the catalog at {self._path} is just being made") from error
        return dbs

    def _identity(self) -> tuple[int, int] | None:
        """Inodes of data and lock file, or None while either is not there."""
        try:
            return self._data.stat().st_ino, (self._path / LOCK_FILE).stat().st_ino
        except FileNotFoundError:
            return None
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
        if self._is_current():
            return
        with self._gate.closed():
            if self._is_current():
                return
            try:
                files = self._open()
            except _NotThereYetError:
                return  # until it is, what was there serves
            self._close()
            self._files = files
            self._on_replaced()

    def _is_current(self) -> bool:
        try:
            return self._files is None or self._data.stat().st_ino == self._files.data_inode
        except OSError:
            return True  # nothing there to change to

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
        if self._files is None:
            raise CatalogError(f"the catalog at {self._path} is closed")
        return self._files.env

    def db(self, name: bytes) -> Any:
        """The handle of a database, to be used within a transaction."""
        if self._files is None:
            raise CatalogError(f"the catalog at {self._path} is closed")
        return self._files.dbs[name]

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
            self.damaged = True  # until it is there again
            self._close()
            remove_files(self._path)
            self._files = self._open()
            self.damaged = False
            self._on_replaced()

    def _close(self) -> None:
        if self._files is not None:
            self._files.env.close()
            self._files = None

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
