"""When the layers of a delivery were sent, for whoever named a trace."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest

from objectcache.cache import Match, RetrieveOptions
from objectcache.gateway.sent_times import KEPT
from objectcache.testing.synthetic import check_delivery, flat_layout, new_namespace, prompt, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import BUCKET, GatewayProcess, eventually

LAYERS, CHUNKS = 6, 16


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def timing(request: pytest.FixtureRequest, module_gateway: StartGateway) -> GatewayProcess:
    return module_gateway(workers=request.param, workers_per_session=request.param, spread_from_bytes=0)


@pytest.fixture
def match(timing: GatewayProcess) -> Match:
    namespace = new_namespace(flat_layout(LAYERS, 256 << 10))
    with timing.open(target="http") as cache:
        store_parts(cache, namespace, prompt(namespace, CHUNKS))
        return cache.match(namespace, prompt(namespace, CHUNKS))


def sent(gateway: GatewayProcess, trace: str, bucket: str = BUCKET) -> list[dict[str, Any]]:
    answer = gateway.ask("GET", f"/{bucket}?kv-sent&trace={trace}")
    assert answer.status == 200
    shown = json.loads(answer.body)
    assert shown["now_s"] == pytest.approx(time.monotonic(), abs=10.0)
    deliveries: list[dict[str, Any]] = shown["deliveries"]
    return deliveries


@pytest.mark.parametrize("target", ["tcp", "shm", "http"])
def test_each_layer_was_sent_between_its_request_and_its_landing(
    timing: GatewayProcess, match: Match, target: str
) -> None:
    began_s = time.monotonic()
    options = RetrieveOptions(layers_per_unit=1, trace=f"of-{target}")
    with timing.open(target=target, streams=2) as cache, cache.retrieve(match, options=options) as retrieval:
        check_delivery(retrieval, match)
        landed_s = [retrieval.landed_s(layer) for layer in range(LAYERS)]
        # Before its session is closed, with which it might end without its last word.
        eventually(lambda: sent(timing, f"of-{target}"), "it has ended")
    (delivery,) = sent(timing, f"of-{target}")
    assert [layer for layer, _, _ in delivery["layers"]] == list(range(LAYERS))
    for layer, first_s, last_s in delivery["layers"]:
        assert began_s < first_s <= last_s
        assert first_s < landed_s[layer]


def test_only_what_named_a_trace_is_kept_and_of_that_the_latest(timing: GatewayProcess, match: Match) -> None:
    with timing.open(target="tcp", streams=2) as cache:
        for trace in ("first", "", *(f"n{number}" for number in range(KEPT))):
            with cache.retrieve(match.shortened(16), options=RetrieveOptions(trace=trace)) as retrieval:
                retrieval.wait(LAYERS - 1)
                if trace:  # closed before it has ended, it might be cancelled
                    eventually(partial(sent, timing, trace), f"{trace} has ended")
    assert not sent(timing, "first")
    assert sent(timing, "n0")


def test_who_asks_must_say_for_what(timing: GatewayProcess) -> None:
    answer = timing.ask("GET", f"/{BUCKET}?kv-sent")
    assert (answer.status, answer.error["Code"]) == (400, "InvalidArgument")
    assert timing.ask("GET", "/no-such-bucket?kv-sent&trace=x").status == 404
    assert sent(timing, "unknown") == []
