"""What is in a store against what the catalog says: segments that nobody committed, and entries without a segment."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from objectcache.cache.counters import CoreCounters
from objectcache.cache.journal import Journal
from objectcache.catalog import Catalog
from objectcache.errors import InvalidObjectNameError, ObjectNotFoundError
from objectcache.names import SEGMENT_PREFIX, clock_name, parse_segment_name
from objectcache.stores import ObjectInfo, Store

log = logging.getLogger(__name__)

VANISHED_AFTER_S = 300.0
"""An entry without a segment counts once it has been in the catalog so long before the listing began."""
_CONFIRMED = 8
"""So many of the entries without a segment are asked for by name, lest a listing that lacks something be believed."""
_MARKS = 8
NAMES_PER_RECORD = 1000
_CLOCK = b"Written to read this store's own clock from it.\n"


class _Seen:
    """A set of numbers below a bound, one bit each: there may be millions of segments."""

    def __init__(self, bound: int) -> None:
        self._bits = bytearray((bound >> 3) + 1)

    def add(self, number: int) -> None:
        self._bits[number >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        return bool(self._bits[number >> 3] >> (number & 7) & 1)


@dataclass(slots=True)
class Findings:
    """`orphans` are in the store and nobody's; `vanished` are in the catalog and gone from the store."""

    orphans: list[str]
    vanished: list[str]


class Reconciler:
    """Compares by one listing. One thread at a time."""

    def __init__(self, store: Store, catalog: Catalog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque(maxlen=_MARKS)
        self.mark()

    def mark(self) -> None:
        """Remember which entries there are now: from some time on they count as old."""
        self._marks.append((self._clock(), self._catalog.next_id()))

    def find(
        self, *, orphan_age_s: float, vanished_after_s: float = VANISHED_AFTER_S, stopped: Callable[[], bool]
    ) -> Findings:
        """Read the whole listing of segments; stop without findings once `stopped()`. Raises StoreError, CatalogError.

        An orphan is older than `orphan_age_s` by the store's own clock.
        """
        before_s = self._clock() - vanished_after_s
        old = max((id for marked_s, id in self._marks if marked_s <= before_s), default=0)
        self.mark()
        seen = _Seen(old)
        orphans: list[ObjectInfo] = []
        for info in self._store.list(SEGMENT_PREFIX):  # in whatever order: not all services keep to S3's
            if stopped():
                return Findings([], [])
            try:
                parse_segment_name(info.name)
            except InvalidObjectNameError:
                continue  # not ours: whatever else somebody keeps there
            id = self._catalog.id_of(info.name)
            if id is None:
                orphans.append(info)
            elif id < old:
                seen.add(id)
        vanished = [name for name, id in self._catalog.names() if id < old and id not in seen]
        if orphans:
            until_s = self.store_time_s() - orphan_age_s
            # Whose commit was read since the listing passed is not one.
            orphans = [info for info in orphans if info.modified_s < until_s and self._catalog.id_of(info.name) is None]
        return Findings([info.name for info in orphans], vanished if self._are_gone(vanished) else [])

    def tidy(
        self,
        journal: Journal,
        counters: CoreCounters,
        *,
        orphan_age_s: float,
        vanished_after_s: float,
        stopped: Callable[[], bool],
        is_known: Callable[[str], bool],
    ) -> Findings:
        """`find`, and act on it: delete orphans, but for those that `is_known(name)`; forget, in the log, what has
        vanished. Returns both. Raises StoreError, CatalogError.
        """
        found = self.find(orphan_age_s=orphan_age_s, vanished_after_s=vanished_after_s, stopped=stopped)
        orphans = [name for name in found.orphans if not is_known(name)]
        journal.delete(orphans)
        counters.orphans += len(orphans)
        for at in range(0, len(found.vanished), NAMES_PER_RECORD):
            names = tuple(found.vanished[at : at + NAMES_PER_RECORD])
            log.warning("forgetting %d segments that are gone from the store, the first is %s", len(names), names[0])
            journal.append(deletes=names)
            counters.vanished += len(names)
        return Findings(orphans, found.vanished)

    def _are_gone(self, vanished: Iterable[str]) -> bool:
        for name in islice(vanished, _CONFIRMED):
            try:
                self._store.head(name)
            except ObjectNotFoundError:
                continue
            log.warning("a listing of segments lacked %s, which is there: what else it lacked stays known", name)
            return False
        return True

    def store_time_s(self) -> float:
        """Unix time by the store's clock, which may differ from ours. Raises StoreError."""
        name = clock_name(self._catalog.writer_id)
        self._store.put(name, _CLOCK)
        return self._store.head(name).modified_s
