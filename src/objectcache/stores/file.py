"""Objects as files below a directory: the embedded default, on a disk of one's own or a shared POSIX mount."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from objectcache.errors import ConfigError
from objectcache.stores.base import (
    MAX_NAME_BYTES,
    ObjectInfo,
    ObjectReader,
    ObjectUpload,
    Store,
    StoreUsage,
    check_metadata,
    check_name,
    check_prefix,
)
from objectcache.stores.file_attributes import info_of_path
from objectcache.stores.file_io import FileReader, FileUpload
from objectcache.stores.file_mount import Mount
from objectcache.stores.file_naming import Publication
from objectcache.stores.file_options import FileOptions
from objectcache.stores.file_space import FileSpace
from objectcache.stores.file_temporaries import Temporaries, remove_empty
from objectcache.stores.file_tree import directory_path, object_path, walk, walk_directories
from objectcache.stores.os_errors import ABSENT, not_found, store_error, translated

_MAX_ROOT_BYTES = 512
"""An encoded name may have 3,100 characters, and a path 4,095."""


class FileStore(Store):
    """Objects below `root` (made when missing): each a file in `objects`, each running upload one in `tmp`.

    There is no database: `file_tree` says how names become paths. A directory is listed and sorted as a whole, so
    names should keep directories small, as our own do: a sequence number is written `000/000/001/234`. Any number of
    processes, and hosts where the mount holds locks across them, may use one root.

    Nothing is synced to disk: what a power failure takes or tears does not match its digests and is a miss, and
    waiting for the disk at each object would buy nothing but that.

    `mount` says what the filesystem lacks, `prefix` below what prefix of the names at `root` the store's own are.

    `limit_bytes` defaults to 80 % of the disk's free bytes and those held already. Past it, or when the disk is full,
    uploads raise StoreFullError and all else goes on; nothing is evicted here. Other processes' changes are found by
    scans at least `rescan_s` seconds apart. Raises ConfigError for a root that cannot be used.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        limit_bytes: int | None = None,
        rescan_s: float = 30.0,
        mount: Mount | None = None,
        prefix: str = "",
    ) -> None:
        path = os.path.abspath(root)
        if len(os.fsencode(path)) > _MAX_ROOT_BYTES or "\0" in path:
            raise ConfigError(
                f"{path!r} cannot be a file store's path: at most {_MAX_ROOT_BYTES} bytes, none of them 0"
            )
        self._mount = mount or Mount()
        self.url = FileOptions(path, self._mount.lacks, prefix).url
        self._objects = directory_path(f"{path}/objects", prefix)
        temporaries = f"{path}/tmp"
        try:
            for directory in (self._objects, temporaries):
                os.makedirs(directory, mode=0o770, exist_ok=True)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise ConfigError(f"{path!r} cannot hold a store: {error.strerror}") from error
        except OSError as error:
            raise store_error(error, f"making {path!r}") from error
        self._temporaries = Temporaries(temporaries, self._objects, self._mount)
        with translated(f"scanning {path!r}"):
            self._space = FileSpace(self._objects, self._temporaries, limit_bytes=limit_bytes, rescan_s=rescan_s)

    def upload(
        self,
        name: str,
        *,
        size_bytes: int | None = None,
        if_absent: bool = False,
        if_match: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectUpload:
        how = Publication(name, self._path(name), if_absent, if_match, check_metadata(metadata or {}))
        return FileUpload(how, self._space, self._temporaries, self._mount, size_bytes=size_bytes or 0)

    def open(self, name: str, *, size_bytes: int | None = None) -> ObjectReader:
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise not_found(error, name) from error
        try:
            return FileReader(name, descriptor, shows_files=self._mount.maps)
        except OSError as error:
            os.close(descriptor)
            raise not_found(error, name) from error

    def head(self, name: str) -> ObjectInfo:
        path = self._path(name)
        try:
            return info_of_path(name, path)
        except OSError as error:
            raise not_found(error, name) from error

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        begin, after = prefix.encode("utf-8", "surrogatepass"), start_after.encode("utf-8", "surrogatepass")
        if len(begin) > MAX_NAME_BYTES:  # no name begins with it, and no path could hold it
            return
        with translated(f"listing {prefix!r}"):
            for encoded, path in walk(self._objects, begin, after):
                try:
                    yield info_of_path(encoded.decode(), path, metadata=False)
                except UnicodeDecodeError:  # a file that is not ours
                    continue
                except OSError as error:
                    if error.errno not in ABSENT:
                        raise

    def list_prefixes(self, prefix: str = "") -> Iterator[str]:
        begin = check_prefix(prefix).encode("utf-8", "surrogatepass")
        if len(begin) > MAX_NAME_BYTES:
            return
        with translated(f"listing {prefix!r}"):
            for encoded in walk_directories(self._objects, begin):
                yield encoded.decode()

    def delete(self, name: str) -> None:
        path = self._path(name)
        directory = os.path.dirname(path)
        try:
            with self._space.lock, self._temporaries.replacing():
                size_bytes = os.stat(path).st_size
                os.unlink(path)
                self._space.changed(directory, -size_bytes)
        except OSError as error:
            if error.errno not in ABSENT:
                raise store_error(error, f"deleting {name!r}") from error
            return
        remove_empty(directory, self._objects)

    def usage(self) -> StoreUsage:
        return self._space.usage()

    def account(self, delta_bytes: int) -> None:
        self._space.settle(0, delta_bytes)

    def close(self) -> None:
        self._space.close()
        self._temporaries.close()

    def _path(self, name: str) -> str:
        return object_path(self._objects, check_name(name))
