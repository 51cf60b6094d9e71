"""Several caches over one store, with nothing else in common: they store, read, forget, sweep and come back at random.

Participants are anything that opens a `KVCache`: processes' own caches over a bucket, gateways. Chunks hold what
follows from their keys, so that whatever is delivered can be checked by itself.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from objectcache.cache import KVCache, Match, UploadTicket
from objectcache.cache.local import LocalCache
from objectcache.errors import (
    KeyNotFoundError,
    LeaseExpiredError,
    ObjectCacheError,
    UploadNotFoundError,
)
from objectcache.keys import KeyChain, Namespace
from objectcache.names import SEGMENT_PREFIX
from objectcache.stores import Store
from objectcache.testing.synthetic import FIRST, check_delivery, check_layer, fill, flat_layout, new_namespace, prompt

PROMPTS, CHUNKS, SHARED = 6, 12, 4
LAYOUT = flat_layout(3, 3000)
AGREE_S = 2.0
"""By then everybody knows what was written before it became quiet."""
PATIENCE_S = 30.0
"""How much longer that may take on a machine that is busy with other things."""
ORPHAN_AGE_S = 1.5
"""Uploads are committed before, or late. The clock of S3 has whole seconds."""
SNAPSHOT_EVERY_RECORDS = 12

MISSES = (KeyNotFoundError, LeaseExpiredError, UploadNotFoundError)
"""What may come of segments that others delete, and of uploads that others sweep."""

SECONDS = float(os.environ.get("OBJECTCACHE_SEVERAL_S", "0"))
"""How long to go on in all, for a long run; otherwise a few seconds."""


class Participant:
    """One process, as it were: it may close its cache and open it again at any time."""

    def __init__(self, name: str, open_cache: Callable[[], KVCache], several: Several, seed: int) -> None:
        self.name = name
        self._open_cache = open_cache
        self._several = several
        self._random = random.Random(f"{seed} {name}")
        self._late: list[UploadTicket] = []
        self.cache = self._opened()

    def _opened(self) -> KVCache:
        cache = self._open_cache()
        if isinstance(cache, LocalCache):
            cache.core.snapshot_every_records = SNAPSHOT_EVERY_RECORDS
        return cache

    def act(self) -> None:
        actions: dict[Callable[[], None], int] = {
            self.store: 8,
            self.read: 10,
            self.delete_behind_everybody: 1,
            self.commit_late: 2,
            self.reconcile: 1,
            self.reopen: 1,
        }
        action = self._random.choices(list(actions), list(actions.values()))[0]
        self._several.count(action.__name__)
        try:
            action()
        except MISSES as error:
            self._several.count(type(error).__name__)

    def store(self) -> None:
        chain = self._some_prompt()
        matched = self.cache.match(self._several.namespace, chain).tokens // LAYOUT.key_tokens
        first = self._random.choice([matched, matched, 0])
        if first >= len(chain):
            return
        upload = self.cache.store(self._several.namespace, chain, FIRST, first=first)
        if upload is None:
            return
        ticket = fill(upload)
        if self._random.random() < 0.15:
            self._late.append(ticket)
        else:
            self.cache.commit([ticket])

    def commit_late(self) -> None:
        tickets, self._late = self._late, []
        if self._random.random() < 0.5:
            time.sleep(ORPHAN_AGE_S)  # others may sweep it meanwhile
        for ticket in tickets:
            self.cache.commit([ticket])

    def read(self) -> None:
        self.read_and_check(self._some_prompt())

    def read_and_check(self, chain: KeyChain) -> Match:
        """Raises what the retrieval raised; an AssertionError when anything that it gave was wrong."""
        match = self.cache.match(self._several.namespace, chain)
        if match.tokens:
            with self.cache.retrieve(match) as retrieval:
                try:
                    check_delivery(retrieval, match)
                except ObjectCacheError:
                    for layer in retrieval.geometry.order:
                        if retrieval.landed_s(layer) is not None:
                            check_layer(retrieval, match.parts, layer)
                    raise
                finally:
                    self.cache.release(match)
        return match

    def delete_behind_everybody(self) -> None:
        names = [info.name for info in self._several.behind.list(SEGMENT_PREFIX)]
        if names:
            self._several.behind.delete(self._random.choice(names))

    def reconcile(self) -> None:
        if isinstance(self.cache, LocalCache):
            found = self.cache.core.reconcile(
                orphan_age_s=ORPHAN_AGE_S, vanished_after_s=self._random.choice([0.0, 1.0])
            )
            self._several.count("orphans", len(found.orphans))
            self._several.count("vanished", len(found.vanished))

    def reopen(self) -> None:
        self.cache.close()
        self._late = []  # it has forgotten them
        self.cache = self._opened()

    def _some_prompt(self) -> KeyChain:
        chain = self._random.choice(self._several.prompts)
        return chain[: self._random.randint(1, len(chain))]


class Several:
    """`openers` by name; `behind` is the store that they all use, for what happens behind them."""

    def __init__(self, openers: Mapping[str, Callable[[], KVCache]], behind: Store, *, seed: int) -> None:
        self.behind = behind
        self.namespace: Namespace = new_namespace(LAYOUT)
        self.prompts: Sequence[KeyChain] = [
            prompt(self.namespace, CHUNKS, seed=number, shared=SHARED) for number in range(PROMPTS)
        ]
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.participants = [Participant(name, opener, self, seed) for name, opener in openers.items()]

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def run(self, seconds: float, round_s: float = 2.0) -> None:
        """Rounds of actions by all at once, after each of which all must agree. At least one."""
        until_s = time.monotonic() + seconds
        while True:
            self.act_at_once(round_s)
            self.check_agreement()
            if time.monotonic() >= until_s:
                return

    def act_at_once(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        failed = threading.Event()

        def go_on(participant: Participant) -> None:
            try:
                while time.monotonic() < until_s and not failed.is_set():
                    participant.act()
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(len(self.participants)) as threads:
            for running in [threads.submit(go_on, participant) for participant in self.participants]:
                running.result()

    def check_agreement(self) -> None:
        """All match alike, and what they match is there; what turns out to be gone, is gone for all soon after."""
        for _ in range(PROMPTS * CHUNKS):
            time.sleep(AGREE_S)
            self._agree()
            if self._all_there():
                return
        raise AssertionError("there is always something that is matched and gone")

    def _agree(self) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            matched = {
                participant.name: [participant.cache.match(self.namespace, chain).tokens for chain in self.prompts]
                for participant in self.participants
            }
            if len({tuple(tokens) for tokens in matched.values()}) == 1:
                return
            self.count("agreed late")
            assert time.monotonic() < until_s, f"they do not agree: {matched}"
            time.sleep(0.2)

    def _all_there(self) -> bool:
        there = True
        for chain in self.prompts:
            for participant in self.participants:
                try:
                    participant.read_and_check(chain)
                except KeyNotFoundError:
                    there = False
        return there

    def close(self) -> None:
        for participant in self.participants:
            participant.cache.close()
