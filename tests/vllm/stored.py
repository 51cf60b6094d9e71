"""What a cache holds by now."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

from objectcache.cache.directory import state_folder
from objectcache.cache.explain import ListRequest, explain_store, open_explainer
from objectcache.client import ClientOptions
from objectcache.client.explain import GatewayExplainer
from objectcache.client.http import GatewayHttp
from objectcache.errors import ConfigError
from objectcache.stores import open_store
from tests.gateway.process import eventually
from tests.vllm.engines import Engine

QUIET_S = 0.6
"""An upload that is under way is over by then."""


def stored_chunks(url: str) -> int:
    parts = urlsplit(url)
    if parts.scheme == "http":
        http = GatewayHttp(
            ClientOptions().endpoint(str(parts.hostname), int(parts.port or 0), tls=False), timeout_s=30.0
        )
        try:
            return GatewayExplainer(http, parts.path.strip("/")).list(ListRequest()).total_chunks
        finally:
            http.close()
    if parts.scheme == "file":
        try:
            with open_explainer(Path(parts.path)) as explainer:
                return explainer.list(ListRequest()).total_chunks
        except ConfigError:  # nobody has opened it yet
            return 0
    with open_store(url) as store, explain_store(store, state_folder(store.url)) as explainer:
        return explainer.list(ListRequest()).total_chunks


def settle(engine: Engine, url: str, *, more_than: int) -> int:
    """Until the engine has nothing under way, and the cache has more chunks and gets no others. How many it has."""
    engine.settle()
    eventually(lambda: stored_chunks(url) > more_than, f"{url} has more than {more_than} chunks")
    seen, since_s = stored_chunks(url), time.monotonic()
    while time.monotonic() - since_s < QUIET_S:
        time.sleep(QUIET_S / 6)
        now = stored_chunks(url)
        if now != seen:
            seen, since_s = now, time.monotonic()
    return seen
