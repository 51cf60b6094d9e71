"""The first match of a process, with nothing of the catalog in the page cache: look-ups wait for the disk."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from objectcache.bench.catalog.site import CatalogSite
from objectcache.bench.children import JsonChild
from objectcache.bench.machine import drop_page_cache
from objectcache.bench.match.in_process import CHILD
from objectcache.bench.match.rows import time_row
from objectcache.bench.match.settings import MatchSettings
from objectcache.bench.result import Row, sample_row

_PAGE_BYTES = 4096


def cold(segment_chunks: int) -> str:
    return f"match of a whole chain in segments of {segment_chunks}, cold page cache"


def cold_rows(settings: MatchSettings, site: CatalogSite, step: Callable[[], None]) -> list[Row]:
    """In turn with reads of as many pages, at random places of the file, as a match looks up: two a segment."""
    rows = []
    workload = site.workload
    for size in sorted(set(settings.size.segment_sizes), reverse=True):
        matched, read, faults = [], [], []
        numbers = workload.chains_in(size, settings.pairs)
        for pair in range(settings.pairs):
            drop_page_cache(site.catalog)
            read.append([_read_pages(site, 2 * -(-workload.chain_chunks // size))])
            drop_page_cache(site.catalog)
            job = {"do": "match", "catalog": str(site.catalog), "numbers": [numbers[pair % len(numbers)]]}
            with JsonChild([CHILD]) as child:
                answer = child.ask(job | workload.to_dict())
            matched.append(answer["seconds"])
            faults.append(answer["major_faults"])
            step()
        rows += [
            time_row(cold(size), matched),
            sample_row(f"{cold(size)}: pages waited for", "pages", faults),
            time_row(f"read of two pages a segment of {size}, cold", read),
        ]
    return rows


def _read_pages(site: CatalogSite, count: int) -> float:
    descriptor = os.open(site.database, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        pages = os.fstat(descriptor).st_size // _PAGE_BYTES
        places = [random.randrange(pages) * _PAGE_BYTES for _ in range(count)]
        start_s = time.perf_counter()
        for place in places:
            os.pread(descriptor, _PAGE_BYTES, place)
        return time.perf_counter() - start_s
    finally:
        os.close(descriptor)
