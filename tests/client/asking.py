"""What clients ask of a gateway, and loads in one round trip."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import pytest

from objectcache.cache import KVCache, RetrieveOptions
from objectcache.client import GatewayCache
from objectcache.client.control import ControlStream
from objectcache.client.http import GatewayHttp
from objectcache.keys import KeyChain, Namespace
from objectcache.testing.synthetic import check_delivery
from tests.gateway.process import GatewayProcess, eventually

IN_ONE = "kv-match-and-retrieve"
TARGETS = [
    {"target": "tcp"},
    {"target": "tcp", "receiver": "process"},
    {"target": "http"},
    {"target": "shm"},
]


class Requests:
    """What a client asks, by sub-resource; and what is done to its requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.behind: Callable[[str], None] = lambda resource: None
        """Called with an answer at hand, which it keeps from the client meanwhile."""
        start = GatewayHttp.start

        def spying(http: GatewayHttp, method: str, path: str, *args: Any, **how: Any) -> Any:
            resource = path.partition("?")[2]
            self.seen.append(resource)
            answer = start(http, method, path, *args, **how)
            self.behind(resource)
            return answer

        monkeypatch.setattr(GatewayHttp, "start", spying)
        exchange = ControlStream._exchange

        def spying_too(stream: ControlStream, connection: HTTPConnection, *args: Any) -> bytes:
            self.seen.append(IN_ONE)
            answer = exchange(stream, connection, *args)
            self.behind(IN_ONE)
            return answer

        monkeypatch.setattr(ControlStream, "_exchange", spying_too)


def load(
    cache: KVCache, namespace: Namespace, chain: KeyChain, *, most_tokens: int | None = None, **options: Any
) -> int:
    """How many tokens came."""
    match, retrieval = cache.match_and_retrieve(
        namespace, chain, options=RetrieveOptions(**options), most_tokens=most_tokens
    )
    assert retrieval is not None
    coming = match.bounded(most_tokens)
    with retrieval:
        check_delivery(retrieval, coming)
    return coming.tokens


def all_is_free(cache: GatewayCache) -> None:
    eventually(lambda: not cache.pool.usage().in_use_bytes + cache.pool.usage().quarantined_bytes, "memory is free")


def open_cache(gateway: GatewayProcess, options: dict[str, Any], **more: Any) -> GatewayCache:
    cache = gateway.open(**{"streams": 3, **options, **more})
    assert isinstance(cache, GatewayCache)
    return cache
