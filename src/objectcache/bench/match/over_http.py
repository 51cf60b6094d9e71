"""Matches through a gateway on the same catalog: keys in, places and a lease out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from objectcache.bench.catalog.site import CatalogSite
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.match.rows import time_row
from objectcache.bench.match.settings import MatchSettings
from objectcache.bench.result import Row, interleaved, sample_row
from objectcache.client import ClientOptions, GatewayCache
from objectcache.client.endpoint import find_credentials
from objectcache.keys import KeyChain

READY = "gateway ready"


def over_http(length: int, signed: bool) -> str:
    return f"match of {length} chunks over HTTP, {'signed' if signed else 'not signed'}"


def http_rows(settings: MatchSettings, site: CatalogSite, step: Callable[[], None]) -> list[Row]:
    """Of chains in segments of the largest size, the shortest and the longest."""
    with ExitStack() as stack:
        start_s = time.perf_counter()
        gateway = stack.enter_context(BenchGateway(site.root, {"anonymous": "read"}))
        ready_s = time.perf_counter() - start_s
        keys = gateway.credentials
        options = {True: ClientOptions(access_key=keys.access_key, secret_key=keys.secret_key)}
        if find_credentials("", "") is None:  # otherwise a client cannot be kept from signing
            options[False] = ClientOptions()
        caches = {signed: GatewayCache(gateway.host, gateway.port, BUCKET, each) for signed, each in options.items()}
        for cache in caches.values():
            stack.callback(cache.close)
        numbers = site.workload.chains_in(max(settings.size.segment_sizes), settings.chains)
        chains = [site.workload.chain(number) for number in numbers]
        ways = {
            over_http(length, signed): partial(_match_all, site, cache, [chain[:length] for chain in chains])
            for length in sorted({min(settings.lengths), settings.longest})
            for signed, cache in caches.items()
        }
        for measure in ways.values():
            measure()
        measured = interleaved(ways, settings.pairs, lambda way: step())
    return [*(time_row(way, passes) for way, passes in measured.items()), sample_row(READY, "s", [ready_s])]


def _match_all(site: CatalogSite, cache: GatewayCache, chains: Sequence[KeyChain]) -> list[float]:
    seconds = []
    for chain in chains:
        start_s = time.perf_counter()
        found = cache.match(site.workload.namespace, chain)
        seconds.append(time.perf_counter() - start_s)
        if found.tokens != len(chain) * site.workload.shape.chunk_tokens:
            raise BenchmarkError(f"{found.tokens} tokens matched of a chain of {len(chain)} chunks that is stored")
        cache.release(found)
    return seconds
