"""Which segment holds which chunk: an embedded database that replays the writers' logs."""

from objectcache.catalog.catalog import Catalog
from objectcache.catalog.follower import Follower
from objectcache.catalog.matching import Matched, MatchedRuns, match
from objectcache.catalog.reading import CatalogStats
from objectcache.catalog.records import DamagedCatalogError, Run, SegmentRecord
from objectcache.catalog.scanning import chunk_holders
from objectcache.catalog.view import CatalogView

__all__ = [
    "Catalog",
    "CatalogStats",
    "CatalogView",
    "DamagedCatalogError",
    "Follower",
    "Matched",
    "MatchedRuns",
    "Run",
    "SegmentRecord",
    "chunk_holders",
    "match",
]
