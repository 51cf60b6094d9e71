"""A cache over a store that is far away, and whose requests can be held."""

from __future__ import annotations

from pathlib import Path

from objectcache.cache import Match, RetrieveOptions
from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache, _descriptor
from objectcache.cache.requests import Request, plan_requests
from objectcache.cache.tiering import TieredDelivery
from objectcache.keys import Namespace
from objectcache.names import SEGMENT_PREFIX
from objectcache.stores import MemoryStore
from objectcache.testing.far import LatencyStore
from objectcache.testing.synthetic import (
    flat_layout,
    new_namespace,
    prompt,
)

LAYERS, CHUNKS, SLICE_BYTES = 6, 8, 32 << 10


class World:
    """A cache over a far store, whose follower rests."""

    def __init__(self, folder: Path) -> None:
        self.objects = MemoryStore(1 << 30)
        self.store = LatencyStore(self.objects)
        self.cache = LocalCache(CacheCore.open(self.store, folder / "catalog"))
        self.namespace: Namespace = new_namespace(flat_layout(LAYERS, SLICE_BYTES))
        self.chain = prompt(self.namespace, CHUNKS)
        self._counted: dict[str, int] = {}

    def counted(self) -> dict[str, int]:
        """Requests since the last time."""
        before, self._counted = self._counted, dict(self.cache.request_counts())
        return {
            kind: count - before.get(kind, 0) for kind, count in self._counted.items() if count > before.get(kind, 0)
        }

    def requests(self, match: Match) -> list[Request]:
        """Those of a retrieval of all that matched."""
        delivery = TieredDelivery(None, match.namespace, match.parts)
        plan = self.cache.core.plan(_descriptor(match, delivery, RetrieveOptions(layers_per_unit=1)))
        return list(plan_requests(plan))

    def segment(self) -> str:
        return next(iter(self.objects.list(SEGMENT_PREFIX))).name
