"""Match and retrieve in one round trip: how many trips it takes, and what becomes of those that go wrong."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from objectcache.cache import KVCache, RetrieveOptions
from objectcache.client import GatewayCache
from objectcache.client.one_trip import Wanted
from objectcache.errors import (
    DeliveryError,
    DeliveryTimeoutError,
    GatewayUnavailableError,
    ObjectCacheError,
    RequestError,
)
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import KVLayout
from objectcache.messages import MatchAndRetrieveAnswer, MatchAndRetrieveRequest
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.client.asking import IN_ONE, TARGETS, Requests, all_is_free, load, open_cache
from tests.gateway.process import GatewayProcess, eventually, stopped

LAYOUT = flat_layout(8, 64 << 10)
CHUNKS = 16
each_target = pytest.mark.parametrize("options", TARGETS, ids=["tcp", "process", "http", "shm"])


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


def stored(cache: KVCache, layout: KVLayout = LAYOUT) -> tuple[Namespace, KeyChain]:
    namespace = new_namespace(layout)
    chain = prompt(namespace, CHUNKS)
    store_parts(cache, namespace, chain)
    return namespace, chain


def of_tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client asks in one, and the control stream that it would ask over, no gateway knows yet."""
    path = GatewayCache._path
    monkeypatch.setattr(GatewayCache, "_path", lambda self, name: path(self, name.replace(IN_ONE, "kv-of-tomorrow")))
    monkeypatch.setattr("objectcache.client.control.CONTROL_PROTOCOL", "kv-control-of-tomorrow")


@each_target
def test_it_is_one_request(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)  # opens the session
        requests.seen.clear()
        assert load(cache, namespace, chain) == CHUNKS * 16
        assert cache.match_and_retrieve(namespace, prompt(namespace, CHUNKS, seed=1))[1] is None
        assert requests.seen == [IN_ONE, IN_ONE]
        all_is_free(cache)


@each_target
def test_a_gateway_that_does_not_know_it_is_asked_twice(
    gateway: GatewayProcess, requests: Requests, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_tomorrow(monkeypatch)
    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        for _ in range(3):
            assert load(cache, namespace, chain) == CHUNKS * 16
        asked = [name for name in requests.seen if name in ("kv-of-tomorrow", "kv-match", "kv-retrieve")]
        assert asked == ["kv-of-tomorrow"] + ["kv-match", "kv-retrieve"] * 3
        all_is_free(cache)


def test_a_gateway_that_did_not_know_it_is_replaced(
    gateway: GatewayProcess, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_cache(gateway, TARGETS[0]) as cache:
        namespace, chain = stored(cache)
        with monkeypatch.context() as old:
            of_tomorrow(old)
            load(cache, namespace, chain)
        load(cache, namespace, chain)
        assert IN_ONE not in requests.seen
        monkeypatch.setattr("objectcache.client.abilities.AGAIN_S", 0.0)
        requests.seen.clear()
        load(cache, namespace, chain)
        assert requests.seen == [IN_ONE]


@each_target
def test_less_than_matches_is_one_request_too(
    gateway: GatewayProcess, requests: Requests, options: dict[str, Any]
) -> None:
    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        requests.seen.clear()
        for most in (5 * 16, 7 * 16 + 3):
            assert load(cache, namespace, chain, most_tokens=most) == most // 16 * 16
        assert requests.seen == [IN_ONE, IN_ONE]
        all_is_free(cache)


def test_what_comes_if_all_matches() -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    whole, less = Wanted(namespace, chain).whole(), Wanted(namespace, chain, most_tokens=5 * 16 + 3).whole()
    assert (whole.tokens, less.tokens) == (CHUNKS * 16, 5 * 16)
    assert [len(part.keys) for part in less.parts] == [5]


@each_target
def test_a_gateway_that_knows_nothing_of_less(
    gateway: GatewayProcess, requests: Requests, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for all, so it matches only. Where there is, all would come: that is cancelled, and from then on
    less takes two trips."""
    encode = MatchAndRetrieveRequest.encode
    monkeypatch.setattr(MatchAndRetrieveRequest, "encode", lambda self: encode(replace(self, most_tokens=0)))

    def asked(most_tokens: int) -> list[str]:
        requests.seen.clear()
        assert load(cache, namespace, chain, most_tokens=most_tokens) == most_tokens
        return [name for name in requests.seen if name in (IN_ONE, "kv-match", "kv-retrieve")]

    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        assert asked(CHUNKS * 16) == [IN_ONE], "all is what was wanted"
        for _ in range(2):
            assert asked(5 * 16) == [IN_ONE, "kv-retrieve"]
        namespace, chain = stored(cache, flat_layout(8, 64))  # of which many fit where layers are aligned
        assert asked(5 * 16) == [IN_ONE, "kv-match", "kv-retrieve"]
        assert asked(5 * 16) == ["kv-match", "kv-retrieve"]
        requests.seen.clear()
        assert load(cache, namespace, chain) == CHUNKS * 16
        assert requests.seen == [IN_ONE]
        all_is_free(cache)


@each_target
def test_a_restart_costs_a_second_request(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        gateway.restart()
        requests.seen.clear()
        assert load(cache, namespace, chain) == CHUNKS * 16
        assert requests.seen.count(IN_ONE) <= 2
        assert "kv-match" not in requests.seen
        all_is_free(cache)


@each_target
def test_frames_wait_for_an_answer(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        requests.behind = lambda resource: time.sleep(0.2 if resource == IN_ONE else 0)
        assert load(cache, namespace, chain) == CHUNKS * 16
        all_is_free(cache)


@each_target
def test_they_do_not_wait_for_ever(gateway: GatewayProcess, requests: Requests, options: dict[str, Any]) -> None:
    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        requests.behind = lambda resource: time.sleep(1.5 if resource == IN_ONE else 0)
        match, retrieval = cache.match_and_retrieve(namespace, chain)
        assert retrieval is not None
        with retrieval:
            if options["target"] == "http":
                check_delivery(retrieval, match)  # its frames are behind the answer
            else:
                with pytest.raises(DeliveryError):
                    retrieval.wait(7)
        requests.behind = lambda resource: None
        assert load(cache, namespace, chain) == CHUNKS * 16
        all_is_free(cache)


@each_target
def test_an_answer_that_makes_no_sense_is_cancelled(
    gateway: GatewayProcess, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(data: object) -> object:
        raise RequestError("not in any language")

    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        with monkeypatch.context() as patched:
            patched.setattr(MatchAndRetrieveAnswer, "decode", decode)
            for _ in range(3):
                with pytest.raises(RequestError):
                    cache.match_and_retrieve(namespace, chain)
        assert load(cache, namespace, chain) == CHUNKS * 16
        all_is_free(cache)


@each_target
def test_what_is_given_up_before_its_answer_is_cancelled(gateway: GatewayProcess, options: dict[str, Any]) -> None:
    with open_cache(gateway, options) as cache:
        namespace, chain = stored(cache)
        load(cache, namespace, chain)
        with stopped(gateway.pid):
            for _ in range(2):
                with pytest.raises((DeliveryTimeoutError, GatewayUnavailableError)):
                    cache.match_and_retrieve(namespace, chain, options=RetrieveOptions(deadline_s=0.2))
        eventually(lambda: _loads(cache, namespace, chain), "it goes on")
        all_is_free(cache)


def _loads(cache: KVCache, namespace: Namespace, chain: KeyChain) -> bool:
    try:
        return load(cache, namespace, chain) == CHUNKS * 16
    except ObjectCacheError:
        return False
