"""Files of the tier that this process has mapped, so that a device copies from them where they are."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence

from objectcache.errors import ConfigError, StoreUnavailableError
from objectcache.keys import KeyChain
from objectcache.tier.files import Beginning, Registrar, TierFile

log = logging.getLogger(__name__)

MAX_WINDOWS = 16 << 10
"""Each layer of each file is one, and a process may have some 65,000 (vm.max_map_count), of whatever kind."""
SWEEP_S = 5.0
"""For so long a file that was evicted may still take memory because it is mapped here."""


class Mappings:
    """At most `limit_bytes` in `max_windows` layers, the least recently used go first. Nothing is mapped without a
    registrar. Thread-safe."""

    def __init__(self, limit_bytes: int, max_windows: int = MAX_WINDOWS) -> None:
        self._limit_bytes = limit_bytes
        self._max_windows = max_windows
        self._registrars: list[Registrar] = []
        self._lock = threading.Lock()
        self._files: OrderedDict[TierFile, None] = OrderedDict()  # least recently used first
        self._at: dict[str, TierFile] = {}  # by path
        self._beginning: dict[Beginning, list[TierFile]] = {}
        self._leaving: list[TierFile] = []
        self._bytes = self._windows = 0
        self._closed = threading.Event()
        self._sweeper: threading.Thread | None = None

    def register(self, registrar: Registrar) -> None:
        """What is mapped from here on is registered with it."""
        self._registrars.append(registrar)

    @property
    def wanted(self) -> bool:
        """Whether anything is to be mapped."""
        return bool(self._registrars) and not self._closed.is_set()

    @property
    def mapped_bytes(self) -> int:
        return self._bytes

    def find(
        self, group: int, shard: int, keys: KeyChain, at: int, step: int, *, rest: bool, num_layers: int | None
    ) -> TierFile | None:
        """A mapped file of the shard and of `num_layers` (None: any) that has all of `keys` from `at` on, or else the
        longest of whole steps whose chunks are all wanted: the caller closes it."""
        best: TierFile | None = None
        left = len(keys) - at
        with self._lock:
            for file in self._beginning.get((group, shard, keys[at]), ()):
                name = file.name
                if name.rest is not rest or num_layers not in (None, name.num_layers):
                    continue
                if best is not None and name.num_chunks <= best.name.num_chunks:
                    continue
                last = min(left, name.num_chunks) - 1  # its key names all before it
                if (name.num_chunks >= left or name.num_chunks % step == 0) and file.keys()[last] == keys[at + last]:
                    best = file
            if best is None:
                return None
            self._files.move_to_end(best)
            return best.share()

    def at(self, path: str) -> TierFile | None:
        """The file, if it is mapped: the caller closes it."""
        with self._lock:
            file = self._at.get(path)
            if file is None:
                return None
            self._files.move_to_end(file)
            return file.share()

    def map(self, file: TierFile) -> None:
        """Map an open file that nobody else shares yet, and keep it so. The caller closes it, and is the only one who
        maps. Raises IntegrityError."""
        try:
            file.map(self._registrars)
        except (ConfigError, StoreUnavailableError) as error:
            log.warning("the local tier is not mapped any more: %s", error)
            self._registrars.clear()
        size = file.mapped_bytes
        if not size or size > self._limit_bytes or file.mapped_layers > self._max_windows:
            return
        with self._lock:
            if self._closed.is_set():
                return
            self._files[file.share()] = None
            self._at[file.path] = file
            self._beginning.setdefault(file.beginning, []).append(file)
            self._bytes += size
            self._windows += file.mapped_layers
            while self._bytes > self._limit_bytes or self._windows > self._max_windows:
                self._drop(next(iter(self._files)))
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._sweep_on, name="sweep-tier", daemon=True)
            self._sweeper.start()
        self._let_go()

    def drop(self, file: TierFile) -> None:
        """It is not to be found any more."""
        with self._lock:
            if file in self._files:
                self._drop(file)

    def _drop(self, file: TierFile) -> None:
        """Holds the lock."""
        del self._files[file]
        del self._at[file.path]
        beginning = file.beginning
        self._beginning[beginning].remove(file)
        if not self._beginning[beginning]:
            del self._beginning[beginning]
        self._bytes -= file.mapped_bytes
        self._windows -= file.mapped_layers
        self._leaving.append(file)

    def sweep(self) -> None:
        """Let go of files that are not in the tier any more: their memory is not counted."""
        with self._lock:
            found: Sequence[TierFile] = list(self._files)
        for file in found:
            if not file.is_in_place:
                self.drop(file)
        self._let_go()

    def _let_go(self) -> None:
        """By the threads in the background, since to undo a registration takes as long as to make it."""
        with self._lock:
            idle = [file for file in self._leaving if file.users == 1]
            self._leaving = [file for file in self._leaving if file not in idle]
        for file in idle:
            file.close()

    def _sweep_on(self) -> None:
        while not self._closed.wait(SWEEP_S):
            self.sweep()

    def stop(self) -> None:
        """Nothing more is mapped."""
        self._closed.set()

    def close(self) -> None:
        """What retrievals still read goes with them."""
        with self._lock:
            self.stop()
            files, self._leaving = [*self._files, *self._leaving], []
            self._files.clear()
            self._at.clear()
            self._beginning.clear()
            self._bytes = self._windows = 0
        for file in files:
            file.close()
