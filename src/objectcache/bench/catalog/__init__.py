"""`bench catalog`: a catalog of millions of chunks: its size, how fast it fills, opens and is built anew."""

from objectcache.bench.catalog.rows import BARS, bars
from objectcache.bench.catalog.run import run_catalog
from objectcache.bench.catalog.settings import CHUNKS, QUICK_CHUNKS, CatalogSettings, CatalogSize
from objectcache.bench.catalog.workload import CatalogWorkload

__all__ = [
    "BARS",
    "CHUNKS",
    "QUICK_CHUNKS",
    "CatalogSettings",
    "CatalogSize",
    "CatalogWorkload",
    "bars",
    "run_catalog",
]
