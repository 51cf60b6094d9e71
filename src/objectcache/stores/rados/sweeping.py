"""Removing data objects that belong to nobody: of deleted objects after a while, of uploads whose process has died.

The index names them (`Loose`) from before they are written until after they are removed, so that no crash leaves any
behind: the next process that deletes or uploads finds them. Whoever removes those of an upload first makes it
impossible to publish, so that an upload which was only slow fails, and no object lacks its bytes. Times are of the
hosts' clocks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Thread, main_thread

from objectcache.errors import StoreError
from objectcache.stores.rados.entry import LOOSE, Entry, Loose, LooseState
from objectcache.stores.rados.index import LAST_PAGE, Index, Pairs
from objectcache.stores.rados.stripes import Stripes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SweepTiming:
    """Seconds. `grace_s` is how long readers go on after a deletion, `abandoned_s` how long an upload may be silent.

    Uploads say every `heartbeat_s`, when they are written to, that they are alive. `interval_s` lies between two looks
    for what others have left.
    """

    grace_s: float = 60.0
    abandoned_s: float = 3600.0
    heartbeat_s: float = 600.0
    interval_s: float = 600.0

    def due_in_s(self, loose: Loose, now_s: float) -> float:
        wait_s = self.grace_s if loose.state is LooseState.DELETED else self.abandoned_s
        return loose.since_s + wait_s - now_s


class Sweeper:
    """A thread while there is something to do. `has_deleted` tells, once, that this process has left something."""

    def __init__(self, index: Index, stripes: Stripes, timing: SweepTiming, has_deleted: Callable[[], bool]) -> None:
        self.timing = timing
        self._index, self._stripes, self._has_deleted = index, stripes, has_deleted
        self._changed = Condition()
        self._thread: Thread | None = None
        self._next_s = 0.0
        self._closed = False

    def nudge(self) -> None:
        """After a deletion, and when an upload begins. Does not block, never fails."""
        now_s = time.monotonic()
        with self._changed:
            if self._has_deleted():
                self._next_s = min(self._next_s, now_s + self.timing.grace_s + 1)
            elif now_s < self._next_s:
                return
            self._changed.notify_all()
            running = self._thread is not None and self._thread.is_alive()  # it is not in a forked child
            if not running and not self._closed:
                self._thread = Thread(target=self._run, name="objectcache-rados-sweep", daemon=True)
                with suppress(RuntimeError):  # the interpreter ends
                    self._thread.start()
                    return
                self._thread = None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def sweep(self) -> float | None:
        """Remove what is due. In how many seconds there is more to do; None: nothing is left. Raises StoreError."""
        soonest_s: float | None = None
        for shard in self._index.shards:
            after, more = "", True
            while more and not self._closed:
                page = self._index.page(shard, LOOSE, after)
                more = len(page) >= LAST_PAGE
                after = page[-1][0] if page else after
                for wait_s in self._swept(shard, page):
                    soonest_s = wait_s if soonest_s is None else min(soonest_s, wait_s)
        return soonest_s

    def _swept(self, shard: int, page: Pairs) -> list[float]:
        """Remove what is due of one page; the waits for the rest of it."""
        waits_s, now_s = [], time.time()
        for key, text in page:
            try:
                loose = Loose.decode(text)
            except ValueError:
                continue  # of another version
            wait_s = self.timing.due_in_s(loose, now_s)
            if wait_s > 0:
                waits_s.append(wait_s)
            elif not self._closed:
                self._remove(shard, key, text.decode("ascii"), loose)
        return waits_s

    def _remove(self, shard: int, key: str, text: str, loose: Loose) -> None:
        if remove_claimed(self._index, self._stripes, shard, key, text, loose.stripes):
            _log.debug("removed the data objects of %s, %s", key[1:], loose.state)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    while not self._closed and (left_s := self._next_s - time.monotonic()) > 0:
                        self._changed.wait(left_s)
                    if self._closed:
                        return
                    self._next_s = time.monotonic() + self.timing.interval_s
                wait_s = self.sweep()
                with self._changed:
                    if self._has_deleted():  # meanwhile, so that it was not seen
                        wait_s = min(self.timing.grace_s, self.timing.grace_s if wait_s is None else wait_s)
                    if wait_s is None or wait_s > self.timing.interval_s:
                        self._thread = None
                        return
                    self._next_s = min(self._next_s, time.monotonic() + wait_s + 1)
        except StoreError as error:
            if self._closed or not main_thread().is_alive():
                return
            _log.warning("removing what deleted objects and dead uploads left failed, and is tried later: %s", error)
            self._thread = None


def remove_claimed(index: Index, stripes: Stripes, shard: int, key: str, text: str, count: int) -> bool:
    """Remove the data objects that `key`, whose value is `text`, tells of, and then it. False: it has changed.

    Until they are gone the index goes on naming them, and nobody can publish them. Raises StoreError.
    """
    return _remove_if(index, stripes, shard, {key: text}, key, count)


def remove_unclaimed(index: Index, stripes: Stripes, name_key: str, id: str) -> bool:
    """Remove data objects of `id`, of an upload to `name_key` that was given up by a sweep and went on all the same.

    False: they belong to somebody. Raises StoreError.
    """
    shard, key = index.shard_of(name_key), LOOSE + id
    text = index.text_of(shard, name_key)
    if text and Entry.decode(name_key, text.encode()).id == id:
        return False  # it was published, though nobody was told
    return _remove_if(index, stripes, shard, {key: "", name_key: text}, key, 0)


def _remove_if(index: Index, stripes: Stripes, shard: int, where: dict[str, str], key: str, count: int) -> bool:
    sweeping = Loose(LooseState.SWEEPING, int(time.time()), count).encode()
    doing = "removing what belongs to nobody"
    if not index.commit(shard, where, {key: sweeping.encode("ascii")}, doing=doing):
        return False
    stripes.remove(key[len(LOOSE) :], count)
    index.commit(shard, {key: sweeping}, {}, [key], doing=doing)
    return True
