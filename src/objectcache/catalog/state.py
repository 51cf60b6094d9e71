"""Who may write a catalog, and the little that must outlive its database: `lock` and `state.json` beside it.

The state is replaced as a whole and is on the disk before anything depends on it, while the database itself is not
synced: after a power loss it may be torn. A boot id that has changed without a clean close says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from objectcache.catalog.environment import DATA_FILE
from objectcache.errors import CatalogError, InvalidObjectNameError
from objectcache.names import check_writer

STATE_FORMAT = 1
_STATE_FILE = "state.json"
_LOCK_FILE = "lock"
_RESERVED_AT_ONCE = 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Changes whenever the machine starts. Empty where there is none: then only a clean close is trusted."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class CatalogState:
    """`directory` is the inode of the catalog's directory: a copy of it must not go on under the same writer id.

    `reserved` is the last segment sequence that may have been used. `data_bytes` is the database's size at a clean
    close, otherwise 0.
    """

    writer_id: str
    directory: int
    reserved: int = 0
    boot_id: str = ""
    clean: bool = False
    data_bytes: int = 0
    format: int = STATE_FORMAT

    def trusts_database(self, data_bytes: int) -> bool:
        """Whether a database of that size can be what was written last."""
        if self.clean:
            return data_bytes >= self.data_bytes
        return bool(self.boot_id) and self.boot_id == boot_id()

    def opened(self) -> CatalogState:
        return replace(self, boot_id=boot_id(), clean=False, data_bytes=0)

    def closed(self, data_bytes: int) -> CatalogState:
        return replace(self, clean=True, data_bytes=data_bytes)


def new_state(path: Path) -> CatalogState:
    """With a new writer id, under which no segment has been named yet."""
    return CatalogState(writer_id=secrets.token_hex(6), directory=path.stat().st_ino)


def load_state(path: Path) -> CatalogState | None:
    """The state of the catalog at `path`, or None when it has none that can be used."""
    try:
        fields: dict[str, Any] = json.loads((path / _STATE_FILE).read_bytes())
        state = CatalogState(**fields)
        check_writer(state.writer_id)
        whole = type(state.reserved) is int and state.reserved >= 0 and type(state.data_bytes) is int
    except (OSError, ValueError, TypeError, InvalidObjectNameError):
        return None
    if not whole or state.format != STATE_FORMAT or state.directory != path.stat().st_ino:
        return None
    return state


def save_state(path: Path, state: CatalogState) -> None:
    """Returns when it is on the disk. Raises CatalogError."""
    temporary = path / f"{_STATE_FILE}.new"
    try:
        with temporary.open("wb") as file:
            file.write(json.dumps(asdict(state)).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path / _STATE_FILE)
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise CatalogError(f"the state of the catalog at {path} cannot be written: {error}") from error


class WriterSeat:
    """What makes this process the one that writes the catalog: the lock, which the kernel lets go of when the process
    dies, and the state. `trusted` says whether the database is what was written last; otherwise it must go.
    """

    def __init__(self, path: Path) -> None:
        """Raises CatalogError, which says who holds the lock when somebody does."""
        self._path = path
        self._fd = _lock(path)
        try:
            data = path / DATA_FILE
            state = load_state(path)
            self.trusted = state is not None and state.trusts_database(data.stat().st_size if data.exists() else 0)
            self._state = (state or new_state(path)).opened()
            save_state(path, self._state)
        except OSError as error:
            os.close(self._fd)
            raise CatalogError(f"the catalog at {path} cannot be opened: {error}") from error
        except CatalogError:
            os.close(self._fd)
            raise
        self._sequences = threading.Lock()
        self._next_sequence = self._state.reserved + 1

    @property
    def writer_id(self) -> str:
        return self._state.writer_id

    def next_sequence(self) -> int:
        """A number that this writer id has never used, not even before a crash. Raises CatalogError."""
        with self._sequences:
            sequence = self._next_sequence
            if sequence > self._state.reserved:
                state = replace(self._state, reserved=self._state.reserved + _RESERVED_AT_ONCE)
                save_state(self._path, state)
                self._state = state
            self._next_sequence += 1
            return sequence

    def close(self, data_bytes: int | None) -> None:
        """Let go. `data_bytes` is the size of the database, which is on the disk; None when it must not be trusted."""
        try:
            with self._sequences:
                state = replace(self._state, reserved=self._next_sequence - 1)
                save_state(self._path, replace(state, boot_id="") if data_bytes is None else state.closed(data_bytes))
        finally:
            os.close(self._fd)


def _lock(path: Path) -> int:
    try:
        fd = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CatalogError(f"the catalog at {path} cannot be locked: {error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except BlockingIOError:
        holder = os.pread(fd, 512, 0).decode(errors="replace") or "another process"
        os.close(fd)
        raise CatalogError(
            f"the catalog at {path} is being written by {holder}: give each writer its own directory, "
            "or open it read-only"
        ) from None
    except OSError as error:
        os.close(fd)
        raise CatalogError(f"the catalog at {path} cannot be locked: {error}") from error
    return fd
