"""Matches in this process, in turn with the two look-ups a segment that they cannot do without, and with hashing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np

from objectcache.bench.catalog.site import CatalogSite
from objectcache.bench.children import JsonChild
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.match.rows import Passes, ratio_of, time_row
from objectcache.bench.match.settings import MatchSettings
from objectcache.bench.result import Row, interleaved
from objectcache.bench.retrieve.workload import PART
from objectcache.catalog import Catalog, match
from objectcache.keys import KeyChain, chain_keys

CHILD = "objectcache.bench.catalog.process"
HASHING = "SHA-256 of the chain's tokens"
_VOCABULARY = 1 << 17


def asked(length: int, segment_chunks: int) -> str:
    return f"match of {length} chunks in segments of {segment_chunks}"


def bare(segment_chunks: int) -> str:
    return f"bare LMDB, two look-ups a segment of {segment_chunks}"


def ways_of(settings: MatchSettings) -> list[str]:
    sizes = sorted(set(settings.size.segment_sizes), reverse=True)
    matches = [asked(length, size) for size in sizes for length in settings.lengths]
    return [*matches, *map(bare, sizes), _HOLE, _BRANCH, _UNKNOWN, HASHING]


_HOLE = "match of a chain that is stored in part"
_BRANCH = "match of a chain that branches off within a segment"
_UNKNOWN = "match of a chain that is not stored"


def in_process_rows(settings: MatchSettings, site: CatalogSite, step: Callable[[], None]) -> list[Row]:
    """Warm: every chain has been asked for once. Raises BenchmarkError where not what is stored matches."""
    with ExitStack() as stack:
        catalog = stack.enter_context(Catalog.open(site.catalog))
        child = stack.enter_context(JsonChild([CHILD]))
        child.ask({"do": "prepare bare gets", "catalog": str(site.catalog), **site.workload.to_dict()})
        ways = _ways(settings, site, catalog, child)
        for measure in ways.values():
            measure()
        measured = interleaved(ways, settings.pairs, lambda way: step())
    rows = [time_row(way, passes) for way, passes in measured.items()]
    return [*rows, *_ratios(settings, measured)]


def _ratios(settings: MatchSettings, measured: dict[str, list[list[float]]]) -> list[Row]:
    passes: dict[str, Passes] = {**measured}
    sizes = sorted(set(settings.size.segment_sizes), reverse=True)
    over_bare = [ratio_of(passes, asked(settings.longest, size), bare(size)) for size in sizes]
    return [*over_bare, ratio_of(passes, asked(settings.longest, sizes[0]), HASHING)]


def _ways(
    settings: MatchSettings, site: CatalogSite, catalog: Catalog, child: JsonChild
) -> dict[str, Callable[[], list[float]]]:
    workload = site.workload
    ways: dict[str, Callable[[], list[float]]] = {}
    bare_ways: dict[str, Callable[[], list[float]]] = {}
    for size in sorted(set(settings.size.segment_sizes), reverse=True):
        numbers = workload.chains_in(size, settings.chains)
        chains = [workload.chain(number) for number in numbers]
        for length in settings.lengths:
            cut = [(chain[:length], length) for chain in chains]
            ways[asked(length, size)] = partial(_match_all, site, catalog, cut)
        bare_ways[bare(size)] = partial(_bare_gets, child, numbers, settings.longest)
    size = max(settings.size.segment_sizes)
    chains = [workload.chain(number)[: settings.longest] for number in workload.chains_in(size, settings.chains)]
    strange = workload.chain(workload.num_chains)
    whole = settings.longest // 2 // size * size
    ways |= bare_ways
    ways[_HOLE] = partial(_match_all, site, catalog, [_joined(chain, strange, whole) for chain in chains])
    branch = whole + size // 2
    ways[_BRANCH] = partial(_match_all, site, catalog, [_joined(chain, strange, branch) for chain in chains])
    ways[_UNKNOWN] = partial(_match_all, site, catalog, [(strange[: settings.longest], 0)])
    tokens = np.random.default_rng(1).integers(_VOCABULARY, size=settings.longest * workload.shape.chunk_tokens)
    ways[HASHING] = lambda: [_seconds(lambda: chain_keys(workload.namespace, tokens))]
    return ways


def _joined(chain: KeyChain, strange: KeyChain, stored: int) -> tuple[KeyChain, int]:
    """The first `stored` chunks of one chain, and the rest of another."""
    return KeyChain(chain[:stored].data + strange[stored : len(chain)].data), stored


def _match_all(site: CatalogSite, catalog: Catalog, chains: Sequence[tuple[KeyChain, int]]) -> list[float]:
    """Seconds of each; with each chain comes how much of it must match."""
    namespace, seconds = site.workload.namespace, []
    for chain, stored in chains:
        start_s = time.perf_counter()
        found = match(catalog, namespace, chain, [PART])
        seconds.append(time.perf_counter() - start_s)
        if found.tokens != stored * site.workload.shape.chunk_tokens:
            raise BenchmarkError(f"{found.tokens} tokens of a chain matched, of which {stored} chunks are stored")
    return seconds


def _bare_gets(child: JsonChild, numbers: Sequence[int], length: int) -> list[float]:
    seconds: list[float] = child.ask({"do": "bare gets", "numbers": list(numbers), "length": length})["seconds"]
    return seconds


def _seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s
