"""The local tier beside a cache: what it holds is not asked for, and what was delivered is kept afterwards."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from objectcache.buffers import BufferPool
from objectcache.cache.ahead import Ahead
from objectcache.cache.base import MatchedPart
from objectcache.cache.destination import Destination
from objectcache.cache.in_place import InPlace
from objectcache.cache.landing import Landing
from objectcache.descriptor import DescriptorPart, HeldChunks, Versions
from objectcache.errors import ConfigError
from objectcache.keys import Namespace
from objectcache.layout import DeliveryGeometry, delivery_geometry
from objectcache.tier import DEFAULT_FIRST_LAYERS, Holding, LocalTier, Registrar, TierPart, TierStats

log = logging.getLogger(__name__)

READERS = min(4, os.cpu_count() or 1)
_AHEAD_BYTES = 32 << 20
"""The first layer, whatever it takes, and those behind it that fit in so much with it: by the time it is known what
matches there are some for the engine to go on with."""
_POOL_SHARE = 0.5
"""How full the destination pool may be when what was delivered stays in it a little longer to be kept."""


@dataclass(frozen=True, slots=True)
class TierOptions:
    """A tier of local DRAM, shared by all processes of a host that name the same directory.

    `limit_bytes` 0 is none. `directory` must be on a tmpfs; by default a folder of the user's in /dev/shm. It stays
    when processes end, and serves those that come after. `first_layers` of a prefix are kept when it comes for the
    first time, the rest when it comes again.
    """

    limit_bytes: int = 0
    directory: str = ""
    first_layers: int = DEFAULT_FIRST_LAYERS

    def __post_init__(self) -> None:
        if self.limit_bytes < 0:
            raise ConfigError(f"limit_bytes of the local tier must not be negative, got {self.limit_bytes}")

    def open(self) -> Tiering | None:
        """None without a limit. Raises ConfigError, StoreError."""
        if not self.limit_bytes:
            return None
        directory = self.directory or f"/dev/shm/objectcache-{os.getuid()}"
        return Tiering(LocalTier(directory, self.limit_bytes, first_layers=self.first_layers))


class Tiering:
    """A tier, the threads that read it, and the one that fills it."""

    def __init__(self, tier: LocalTier) -> None:
        self.tier = tier
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read-tier")
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="fill-tier")
        self._lock = threading.Lock()
        self._filling = 0
        self._closed = False

    @property
    def stats(self) -> TierStats:
        return self.tier.stats

    def look_up(self, namespace: Namespace, parts: Sequence[MatchedPart]) -> Holding | None:
        """What is held of `parts`, or None."""
        holding = self.tier.look_up(namespace.digest, _tier_parts(namespace, parts))
        return holding or None

    def register(self, registrar: Registrar) -> None:
        """From here on what is held is mapped, in the background, and registered: hits are then read in place."""
        self.tier.mappings.register(registrar)

    def read(self, holding: Holding, geometry: DeliveryGeometry, landing: Landing, in_place: InPlace) -> None:
        self.tier.count_read(sum(geometry.unit_bytes) - sum(geometry.unit_wanted_bytes))
        holding.read(
            self._readers,
            READERS,
            geometry,
            landing.memory,
            put_mapped=in_place.put,
            on_unit=landing.land_held,
            on_failed=landing.fail,
            on_over=landing.fence,
        )

    def keep(
        self,
        namespace: Namespace,
        parts: Sequence[MatchedPart],
        versions: Sequence[Versions],
        geometry: DeliveryGeometry,
        holding: Holding | None,
        in_place: InPlace,
        pool: BufferPool,
        destination: Destination,
    ) -> None:
        """A delivery is complete and nobody reads it any more: keep it, close its destination then, and have what is
        held of it mapped. Where keeping would take too much, close it now."""
        usage = pool.usage()
        keeps = len(versions) == len(parts) and usage.in_use_bytes <= _POOL_SHARE * usage.total_bytes
        maps = self.tier.mappings.wanted and holding is not None and not holding.all_mapped

        def close() -> None:
            destination.close(complete=True)
            if holding is not None:
                holding.close()

        def fill() -> None:
            wanted, memory = _tier_parts(namespace, parts), destination.buffer.view
            try:
                new = self.tier.keep(
                    namespace.digest, wanted, versions, geometry, memory, holding, in_place.bring_chunks
                )
            finally:
                close()
            if new or maps:
                self.tier.map(namespace.digest, wanted)

        if not keeps or not self._in_background(fill):
            close()
            if maps:
                self._in_background(lambda: self.tier.map(namespace.digest, _tier_parts(namespace, parts)))

    def _in_background(self, job: Callable[[], None]) -> bool:
        """Whether it will be done: one at a time is."""
        with self._lock:
            busy = self._closed or bool(self._filling)
            self._filling += not busy
        if busy:
            return False

        def run() -> None:
            try:
                job()
            finally:
                with self._lock:
                    self._filling -= 1

        try:
            self._filler.submit(run)
        except RuntimeError:  # closed meanwhile
            with self._lock:
                self._filling -= 1
            return False
        return True

    def settle(self) -> None:
        """Wait until what was delivered so far is kept, and mapped."""
        self._filler.submit(lambda: None).result()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.tier.mappings.stop()
        self._readers.shutdown(wait=True)
        self._filler.shutdown(wait=True)
        self.tier.close()


class TieredDelivery:
    """One retrieval's dealings with the tier, if there is one: what is asked for, and what comes of it."""

    def __init__(
        self,
        tiering: Tiering | None,
        namespace: Namespace,
        parts: Sequence[MatchedPart],
        ahead: Ahead | None = None,
    ) -> None:
        """What is held of `parts` is looked up. They may be more than will match: `narrow` says so then."""
        self._tiering = tiering
        self._ahead = ahead
        self._taken = False
        self._namespace = namespace
        self._asked = list(parts)
        self._holding = tiering.look_up(namespace, parts) if tiering is not None and parts else None
        self._in_place: InPlace | None = None
        self.versions: Sequence[Versions] = ()
        """Of what the storage side sends, once it is known; without them nothing is kept."""

    def take_ahead(self) -> None:
        """Give what is mapped and comes first to who wants it ahead, once. What goes wrong costs only what it saves."""
        if self._holding is None or self._ahead is None or self._taken:
            return
        self._taken = self._ahead.begin()
        if not self._taken:
            self._ahead = None
            return
        try:
            geometry = delivery_geometry(tuple(part.shape for part in self.parts), 1)
            for part, layer, blocks in self._holding.mapped_ahead(geometry, _AHEAD_BYTES):
                self._ahead.take(part, layer, blocks)
        except Exception:
            log.warning("what the local tier holds could not be taken ahead", exc_info=True)
            self._end_ahead()

    def prepare(self) -> None:
        """What `read` will need, while the storage side is asked."""
        if self._holding is not None:
            self._holding.check_mapped([part.shape for part in self._asked])

    def narrow(self, parts: Sequence[MatchedPart]) -> None:
        """It is `parts` that come. Before anything is read."""
        if [(part.part, part.first) for part in parts] != [(part.part, part.first) for part in self._asked]:
            self._end_ahead()  # it knows them by where they stood
        self._asked = list(parts)
        if self._holding is not None:
            self._holding.narrow([(*part.part, part.first, len(part.keys)) for part in parts])
            if not self._holding:
                self.ask_for_all()

    @property
    def parts(self) -> list[MatchedPart]:
        """What was asked for; the shapes say what of it is held."""
        if self._holding is None:
            return self._asked
        return [
            replace(part, shape=replace(part.shape, held=held.held))
            for part, held in zip(self._asked, self._holding.parts, strict=True)
        ]

    @property
    def held(self) -> tuple[HeldChunks, ...]:
        """What is held of which parts."""
        return tuple(part.of for part in self._holding.parts if part.held) if self._holding is not None else ()

    @property
    def all_held(self) -> bool:
        """Nothing is to be sent."""
        return self._holding is not None and all(self.describe(part).all_held for part in self._asked)

    def describe(self, part: MatchedPart) -> DescriptorPart:
        """A part of `parts` as the storage side is asked for it."""
        described = DescriptorPart.of(part.part, part.first, part.stop, part.leaf, self._namespace.layout)
        return described.holding(next((held for held in self.held if (held.group, held.shard) == part.part), None))

    def give_up(self) -> bool:
        """What is held is of other versions than the store's: it goes, and everything is asked for.

        Whether anything was held: asking again makes no difference otherwise.
        """
        if self._holding is None:
            return False
        self._holding.discard()
        self.ask_for_all()
        return True

    def ask_for_all(self) -> None:
        """What is held is not read."""
        self.drop()
        self._holding = None

    def read(self, geometry: DeliveryGeometry, landing: Landing) -> None:
        """Read what is held, beside the delivery of the rest; what is mapped is read where it is."""
        if self._holding is not None and self._tiering is not None:
            self._in_place = InPlace(geometry, landing.memory)
            landing.read_in_place(self._in_place, self._ahead if self._taken else None)
            self._tiering.read(self._holding, geometry, landing, self._in_place)

    def skip(self, landing: Landing) -> None:
        """What is held is not read this time: the delivery was not begun."""
        if self._holding is not None:
            landing.fence()

    def cancel(self) -> None:
        if self._holding is not None:
            self._holding.cancel()

    def drop(self) -> None:
        """Neither read nor asked for any more."""
        if self._holding is not None:
            self._end_ahead()
            self._holding.close()

    def _end_ahead(self) -> None:
        """What was taken ahead does not count, and nobody reads what is held any more."""
        ahead, self._ahead = self._ahead, None
        if self._taken and ahead is not None:
            ahead.wait()

    def closer(self, geometry: DeliveryGeometry, pool: BufferPool, destination: Destination) -> Callable[[bool], None]:
        """For `Retrieval`'s `on_close`."""

        def close(complete: bool) -> None:
            self._end_ahead()
            if complete and self._tiering is not None:
                in_place = self._in_place or InPlace(geometry, destination.buffer.view)
                self._tiering.keep(
                    self._namespace, self._asked, self.versions, geometry, self._holding, in_place, pool, destination
                )
                return
            self.cancel()
            destination.close(complete)
            self.drop()

        return close


def _tier_parts(namespace: Namespace, parts: Sequence[MatchedPart]) -> list[TierPart]:
    found = []
    for part in parts:
        group = namespace.layout.group(part.part.group)
        windowed = group.needed_chunks > 0
        found.append(TierPart(*part.part, part.first, group.chunk_tokens, part.keys, part.shape, windowed))
    return found
