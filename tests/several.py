"""Several caches over one store, with nothing else in common: they store, read, forget, sweep and come back at random.

Participants are anything that opens a `KVCache`: processes' own caches over a bucket, gateways. Some may be killed at
any time. Chunks hold what follows from their keys, so that whatever is delivered can be checked by itself.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from objectcache.cache import KVCache, Match, UploadTicket
from objectcache.cache.local import LocalCache
from objectcache.cache.merging.merger import Merger
from objectcache.cache.merging.policy import MergeLimits
from objectcache.errors import (
    DeliveryError,
    GatewayUnavailableError,
    KeyNotFoundError,
    LeaseExpiredError,
    ObjectCacheError,
    SessionNotFoundError,
    UploadNotFoundError,
)
from objectcache.keys import KeyChain, Namespace
from objectcache.names import SEGMENT_PREFIX
from objectcache.stores import Store
from objectcache.testing.synthetic import (
    FIRST,
    LAYERWISE,
    check_delivery,
    check_layer,
    fill,
    flat_layout,
    new_namespace,
    prompt,
)

PROMPTS, CHUNKS, SHARED = 6, 12, 4
LAYOUT = flat_layout(3, 3000)
AGREE_S = 2.0
"""By then everybody knows what was written before it became quiet."""
PATIENCE_S = 30.0
"""How much longer that may take on a machine that is busy with other things."""
MISFORTUNE_EVERY_S = 1.5
ORPHAN_AGE_S = 1.5
"""Uploads are committed before, or late. The clock of S3 has whole seconds."""
SNAPSHOT_EVERY_RECORDS = 12
GRACE_S = 1.0
"""Long enough for who has just found a segment, short enough for some to be late."""
MERGE_LIMITS = MergeLimits(max_chunks=CHUNKS)

MISSES = (KeyNotFoundError, LeaseExpiredError, UploadNotFoundError)
"""What may come of segments that others delete, and of uploads that others sweep."""

DEATHS = (GatewayUnavailableError, SessionNotFoundError, DeliveryError)
"""What may come of gateways that are killed."""

SECONDS = float(os.environ.get("OBJECTCACHE_SEVERAL_S", "0"))
"""How long to go on in all, for a long run; otherwise a few seconds."""


class World(Protocol):
    """What participants have in common. `behind` is the store that they all use, for what happens behind them."""

    @property
    def behind(self) -> Store: ...
    @property
    def namespace(self) -> Namespace: ...
    @property
    def prompts(self) -> Sequence[KeyChain]: ...
    def count(self, what: str, number: int = 1) -> None: ...


class Member(Protocol):
    """A participant, in whatever process. Calls may raise MISSES; those of one that is killed, also DEATHS."""

    name: str

    def act(self) -> None: ...
    def matched(self) -> list[int]:
        """Tokens of each prompt."""
        ...

    def all_there(self) -> bool:
        """Whether all that is matched could be read. Checks all of it."""
        ...

    def close(self) -> None: ...


class Participant:
    """One process, as it were: it may close its cache and open it again at any time."""

    def __init__(
        self, name: str, open_cache: Callable[[], KVCache], several: World, seed: int | str, *, mortal: bool = False
    ) -> None:
        """`mortal`: the gateway that it uses is killed now and then."""
        self.name = name
        self._open_cache = open_cache
        self._several = several
        self._random = random.Random(f"{seed} {name}")
        self._tolerated = MISSES + DEATHS if mortal else MISSES
        self._late: list[UploadTicket] = []
        self.cache = self._opened()

    def _opened(self) -> KVCache:
        cache = self._open_cache()
        if isinstance(cache, LocalCache):
            cache.core.journal.snapshot_every_records = SNAPSHOT_EVERY_RECORDS
            cache.core.replacing.superseded.grace_s = GRACE_S
        return cache

    def act(self) -> None:
        actions: dict[Callable[[], None], int] = {
            self.store: 8,
            self.read: 10,
            self.delete_behind_everybody: 3,
            self.commit_late: 2,
            self.merge: 2,
            self.reconcile: 1,
            self.reopen: 1,
        }
        action = self._random.choices(list(actions), list(actions.values()))[0]
        try:
            action()
            self._several.count(action.__name__)
        except self._tolerated as error:
            self._several.count(type(error).__name__)
            if isinstance(error, GatewayUnavailableError):
                time.sleep(0.05)  # it is being started

    def matched(self) -> list[int]:
        return [self.cache.match(self._several.namespace, chain).tokens for chain in self._several.prompts]

    def all_there(self) -> bool:
        there = True
        for chain in self._several.prompts:
            try:
                self.read_and_check(chain)
            except KeyNotFoundError:
                there = False
        return there

    def close(self) -> None:
        self.cache.close()

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
            self._several.count("committed")

    def commit_late(self) -> None:
        tickets, self._late = self._late, []
        if self._random.random() < 0.5:
            time.sleep(ORPHAN_AGE_S)  # others may sweep it meanwhile
        for ticket in tickets:
            self.cache.commit([ticket])
            self._several.count("committed late")

    def read(self) -> None:
        self.read_and_check(self._some_prompt())

    def read_and_check(self, chain: KeyChain) -> Match:
        """Raises what the retrieval raised; an AssertionError when anything that it gave was wrong."""
        match = self.cache.match(self._several.namespace, chain)
        if match.tokens:
            with self.cache.retrieve(match, options=LAYERWISE) as retrieval:
                try:
                    check_delivery(retrieval, match)
                    self._several.count("retrieved")
                except ObjectCacheError:
                    for layer in retrieval.geometry.order:
                        if retrieval.landed_s(layer) is not None:
                            check_layer(retrieval, match.parts, layer)
                    raise
                finally:
                    with suppress(*DEATHS):  # must not hide what is wrong
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

    def merge(self) -> None:
        if isinstance(self.cache, LocalCache):
            merger = Merger(self.cache.core, MERGE_LIMITS)
            findings = merger.find() if self._random.random() < 0.5 else merger.find_all()
            merger.drop_duplicates(findings)
            self._several.count("merged", sum(merger.merge(run) for run in findings.runs))

    def reopen(self) -> None:
        self.cache.close()
        self._late = []  # it has forgotten them
        self.cache = self._opened()

    def _some_prompt(self) -> KeyChain:
        chain = self._random.choice(self._several.prompts)
        return chain[: self._random.randint(1, len(chain))]


def prompts_of(namespace: Namespace) -> list[KeyChain]:
    return [prompt(namespace, CHUNKS, seed=number, shared=SHARED) for number in range(PROMPTS)]


class Several:
    """Participants by name, and the store that they all use."""

    def __init__(
        self,
        openers: Mapping[str, Callable[[], KVCache]],
        behind: Store,
        *,
        seed: int,
        mortal: Collection[str] = (),
        misfortunes: Sequence[Callable[[], None]] = (),
    ) -> None:
        """Those named in `mortal` depend on what `misfortunes` kill, of which one happens every now and then."""
        self.behind = behind
        self.namespace: Namespace = new_namespace(LAYOUT)
        self.prompts: Sequence[KeyChain] = prompts_of(self.namespace)
        self.counts: Counter[str] = Counter()
        self.agreed_after_s: list[float] = []
        """Of each time that it became quiet: how long it was until all agreed."""
        self._misfortunes = misfortunes
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.participants: list[Member] = [
            Participant(name, opener, self, seed, mortal=name in mortal) for name, opener in openers.items()
        ]

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
        over = threading.Event()

        def act(participant: Member) -> None:
            try:
                while time.monotonic() < until_s and not over.is_set():
                    participant.act()
            except BaseException:
                over.set()
                raise

        def hurt() -> None:
            while self._misfortunes and not over.wait(self._random.uniform(0, MISFORTUNE_EVERY_S * 2)):
                if time.monotonic() >= until_s:
                    return
                self._random.choice(self._misfortunes)()

        with ThreadPoolExecutor(len(self.participants) + 1) as threads:
            hurting = threads.submit(hurt)
            for running in [threads.submit(act, participant) for participant in self.participants]:
                running.result()
            over.set()
            hurting.result()

    def check_agreement(self) -> None:
        """All match alike, and what they match is there; what turns out to be gone, is gone for all soon after."""
        for _ in range(PROMPTS * CHUNKS):
            self._agree()
            there = [participant.all_there() for participant in self.participants]
            if all(there):
                self.count("rounds of agreement")
                return
        raise AssertionError("there is always something that is matched and gone")

    def _agree(self) -> None:
        """Watch for AGREE_S, or until all agree where that is later."""
        quiet_s = time.monotonic()
        agreed_s: float | None = None
        while True:
            asked_s = time.monotonic()
            matched = self._matched()
            if len({tuple(tokens) for tokens in matched.values()}) == 1:
                agreed_s = asked_s if agreed_s is None else agreed_s
                if time.monotonic() >= quiet_s + AGREE_S:
                    break
            else:
                agreed_s = None
                assert asked_s < quiet_s + AGREE_S + PATIENCE_S, f"they do not agree: {matched}"
            time.sleep(0.05)
        with self._lock:
            self.agreed_after_s.append(agreed_s - quiet_s)
            self.counts["agreed late"] += agreed_s - quiet_s > AGREE_S

    def _matched(self) -> dict[str, list[int]]:
        """By participant. One that is not back yet after a misfortune agrees with nobody."""
        matched = {}
        for number, participant in enumerate(self.participants):
            try:
                matched[participant.name] = participant.matched()
            except DEATHS:
                matched[participant.name] = [-1 - number]
        return matched

    def close(self) -> None:
        for participant in self.participants:
            participant.close()
