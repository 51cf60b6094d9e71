"""Objects that are open for reading, shared by the deliveries that need them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from objectcache.errors import ObjectNotFoundError, SegmentGoneError
from objectcache.stores import ObjectReader, Store

IDLE_S = 5.0
"""How long an object stays open unused. Short: a deleted file's space is not free while it is open."""


@dataclass(eq=False)
class _Opened:
    reader: ObjectReader
    holders: int = 0
    idle_since_s: float = field(default=0.0)


class HeldObjects:
    """Open objects by name, until `release`."""

    def __init__(self, owner: OpenObjects, opened: dict[str, _Opened]) -> None:
        self._owner = owner
        self._opened = opened
        self.readers = {name: entry.reader for name, entry in opened.items()}

    def release(self) -> None:
        self._owner._release(self._opened.values())
        self._opened = {}


class OpenObjects:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[tuple[str, str], _Opened] = {}

    def hold(self, store: Store, sizes: Mapping[str, int]) -> HeldObjects:
        """Open all objects that `sizes` names: a deletion from here on does not hurt, where the store is not far.

        Raises SegmentGoneError, StoreError.
        """
        held: dict[str, _Opened] = {}
        url = store.url
        with self._lock:
            try:
                for name, size_bytes in sizes.items():
                    entry = self._opened.get((url, name))
                    if entry is None:
                        entry = self._opened[url, name] = _Opened(store.open(name, size_bytes=size_bytes))
                    entry.holders += 1
                    held[name] = entry
            except ObjectNotFoundError as error:
                self._let_go(held.values())
                raise SegmentGoneError(f"segment {name} is gone from the store", segment=name) from error
            except BaseException:
                self._let_go(held.values())
                raise
        return HeldObjects(self, held)

    def _release(self, entries: Iterable[_Opened]) -> None:
        with self._lock:
            self._let_go(entries)

    def _let_go(self, entries: Iterable[_Opened]) -> None:
        now_s = time.monotonic()
        for entry in entries:
            entry.holders -= 1
            entry.idle_since_s = now_s

    def close_idle(self, now_s: float) -> None:
        """Close what nobody has held for IDLE_S."""
        with self._lock:
            for key, entry in list(self._opened.items()):
                if not entry.holders and now_s - entry.idle_since_s > IDLE_S:
                    del self._opened[key]
                    entry.reader.close()
