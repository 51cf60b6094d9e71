"""Simulations beside what can be computed by hand."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from statistics import fmean

import pytest

from objectcache.errors import ConfigError
from objectcache.layout import KVLayout
from objectcache.scheduling import Scheduler
from objectcache.simulation import parallel
from objectcache.simulation.engine import EngineSpeed
from objectcache.simulation.fluid import LINK, added_ttft_s
from objectcache.simulation.mixes import Mix, draw_mixes, equally_shared_s
from objectcache.simulation.run import place, simulate
from objectcache.simulation.settings import Fabric
from objectcache.simulation.workload import Arrival, Generated

LAYERS, SLICE = 4, 64 * 1024
CAP = 1e9
FABRIC = Fabric(
    layout=KVLayout.attention(num_layers=LAYERS, num_kv_heads=8, head_dim=128, dtype_bytes=2),
    nodes=2,
    nic_bytes_s=CAP,
    client_bytes_s=inf,
    request_s=0.001,
    landing_s=0.0005,
    layers_per_unit=1,
)
HIT = 16 * 100
LAYER_S = 100 * SLICE / CAP  # 6.6 ms


def asked(at_s: float = 0.0, window_s: float = 0.0, node: int | None = None, hit: int = HIT) -> Arrival:
    return Arrival(at_s, 2048, hit, node=node, window_s=window_s)


@pytest.mark.parametrize("window_s", [0.0, 0.002, LAYER_S, 0.010])
@pytest.mark.parametrize("policy", ["equal", "slack"])
def test_one_request_adds_its_first_layer_and_what_windows_do_not_cover(window_s: float, policy: str) -> None:
    outcome = simulate(FABRIC, [asked(window_s=window_s)], policy)[0]
    added_s = 0.001 + 0.0005 + LAYER_S + (LAYERS - 1) * max(0.0, LAYER_S - window_s)
    assert outcome.local_s == pytest.approx(LAYERS * window_s)
    assert outcome.added_s == pytest.approx(added_s)
    assert outcome.payload_bytes == LAYERS * 100 * SLICE


def test_as_one_unit_all_of_it_is_waited_for() -> None:
    fabric = replace(FABRIC, layers_per_unit=LAYERS)
    outcome = simulate(fabric, [asked(window_s=0.010)], "equal")[0]
    assert outcome.added_s == pytest.approx(0.0015 + LAYERS * LAYER_S)
    assert outcome.layers_per_unit == LAYERS


def test_equal_requests_share_equally() -> None:
    outcomes = simulate(FABRIC, [asked(node=0, window_s=0.002), asked(node=1, window_s=0.002)], "equal")
    added_s = 0.0015 + 2 * LAYER_S + (LAYERS - 1) * (2 * LAYER_S - 0.002)
    assert [outcome.added_s for outcome in outcomes] == pytest.approx([added_s, added_s])


def test_gateways_have_their_own_nics_and_a_share_of_the_store() -> None:
    requests = [asked(node=0), asked(node=1)]
    alone_s = 0.0015 + LAYERS * LAYER_S
    apart = replace(FABRIC, gateways=2)
    assert [outcome.added_s for outcome in simulate(apart, requests, "equal")] == pytest.approx([alone_s] * 2)
    shared_s = 0.0015 + 2 * LAYERS * LAYER_S
    store = replace(apart, store_bytes_s=CAP)
    assert [outcome.added_s for outcome in simulate(store, requests, "equal")] == pytest.approx([shared_s] * 2)
    client = replace(FABRIC, client_bytes_s=CAP / 4)
    assert simulate(client, requests[:1], "equal")[0].added_s == pytest.approx(0.0015 + 4 * LAYERS * LAYER_S)


def test_tenants_have_their_weights() -> None:
    requests = [replace(asked(node=0), tenant="a"), replace(asked(node=1), tenant="b")]
    outcomes = simulate(replace(FABRIC, weights={"a": 3.0}), requests, "equal")
    assert outcomes[0].added_s == pytest.approx(0.0015 + LAYERS * LAYER_S * 4 / 3)
    assert outcomes[1].added_s == pytest.approx(0.0015 + LAYERS * LAYER_S * 2)


def test_decisions_may_be_farther_apart() -> None:
    fabric = Fabric(nodes=6, nic_bytes_s=4e9)
    arrivals = Generated("bursts", 40, rate=4.0, seed=2).arrivals()
    means = [
        fmean(outcome.added_s for outcome in simulate(replace(fabric, decide_s=apart_s), arrivals, "slack"))
        for apart_s in (0.0, 0.02)
    ]
    assert means[0] != means[1]
    assert means[0] == pytest.approx(means[1], rel=0.1)


def test_a_node_computes_one_after_the_other_and_loads_ahead() -> None:
    """The second load is hidden by the first request's compute, or not begun before it."""
    requests = [asked(node=0, window_s=0.050), asked(node=0, window_s=0.050)]
    first_s = 0.0015 + LAYER_S + LAYERS * 0.050
    ahead = simulate(FABRIC, requests, "equal")
    assert ahead[1].ttft_s - ahead[0].ttft_s == pytest.approx(LAYERS * 0.050)
    assert ahead[1].local_s == pytest.approx(2 * LAYERS * 0.050)
    behind = simulate(replace(FABRIC, loads_ahead=0), requests, "equal")
    assert behind[1].ttft_s == pytest.approx(2 * first_s)


def test_a_miss_loads_nothing_and_adds_nothing() -> None:
    outcome = simulate(FABRIC, [asked(window_s=0.003, hit=15)], "equal")[0]  # less than a chunk
    assert outcome.ttft_s == outcome.local_s == pytest.approx(LAYERS * 0.003)
    assert outcome.payload_bytes == 0


def test_only_the_first_step_of_a_chunked_prefill_hides_the_load() -> None:
    engine = EngineSpeed(token_s=1e-6, pair_s=0.0, least_s=0.0)
    arrival = Arrival(0.0, HIT + 2000, HIT)
    whole = simulate(replace(FABRIC, engine=engine), [arrival], "equal")[0]
    stepped = simulate(replace(FABRIC, engine=replace(engine, step_tokens=500)), [arrival], "equal")[0]
    assert whole.local_s == pytest.approx(stepped.local_s)
    assert whole.added_s == pytest.approx(0.0015 + LAYER_S + 3 * (LAYER_S - 0.002))
    assert stepped.added_s == pytest.approx(0.0015 + LAYER_S + 3 * (LAYER_S - 0.0005))


def mix_added_s(mix: Mix, policy: str) -> list[float]:
    """Each request on a node of its own, layer by layer, and nothing but bytes takes time."""
    fabric = Fabric(
        nodes=len(mix.requests),
        nic_bytes_s=mix.cap_bytes_s,
        client_bytes_s=inf,
        request_s=0.0,
        landing_s=0.0,
        layers_per_unit=1,
    )
    arrivals = [
        Arrival(one.arrival_s, one.context_tokens, int(one.context_tokens * one.hit), node=node, window_s=one.window_s)
        for node, one in enumerate(mix.requests)
    ]
    return [outcome.added_s for outcome in simulate(fabric, arrivals, policy)]


def test_mixes_under_equal_sharing_are_what_the_closed_form_says() -> None:
    for mix in draw_mixes(3, 6):
        assert mix_added_s(mix, "equal") == pytest.approx(list(equally_shared_s(mix)))


def test_nothing_is_faster_than_local_memory_and_all_is_sent() -> None:
    fabric = Fabric(nodes=6, gateways=3, nic_bytes_s=4e9)
    arrivals = Generated("bursts", 60, rate=4.0, seed=2).arrivals()
    for policy in ("equal", "slack"):
        for arrival, outcome in zip(arrivals, simulate(fabric, arrivals, policy), strict=True):
            assert outcome.added_s > 0
            assert outcome.payload_bytes == arrival.hit_tokens * 128 * 1024


def test_the_same_again_is_the_same_in_other_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "FEW_REQUESTS", 10)
    fabric = Fabric(nodes=50, gateways=5)
    arrivals = Generated("poisson", 40, rate=50.0, seed=4).arrivals()
    told: list[int] = []
    apart = parallel.simulate_all(fabric, arrivals, ("equal", "slack"), jobs=2, progress=told.append)
    assert apart == {policy: simulate(fabric, arrivals, policy) for policy in ("equal", "slack")}
    assert sum(told) == 2 * len(arrivals)


def test_a_source_stays_on_its_node() -> None:
    arrivals = [Arrival(0.0, 32, 16, source=source, node=node) for source, node in (("a", None), ("", None), ("b", 5))]
    arrivals += [Arrival(1.0, 32, 16, source="a"), Arrival(1.0, 32, 16)]
    assert place(arrivals, 6) == [0, 1, 5, 0, 2]
    with pytest.raises(ConfigError, match="node 5"):
        place(arrivals, 5)


def test_fabrics_say_what_is_wrong() -> None:
    for wrong in ({"gateways": 9}, {"nic_bytes_s": 0.0}, {"loads_ahead": -1}, {"request_s": -1.0}):
        with pytest.raises(ConfigError):
            replace(Fabric(), **wrong)
    layout = KVLayout.attention(num_layers=2, num_kv_heads=8, head_dim=64, dtype_bytes=2, tensor_parallel=2)
    with pytest.raises(ConfigError, match="one shard"):
        Fabric(layout=layout)


def test_with_advice_nothing_is_much_slower_than_computing_it() -> None:
    """At next to no bandwidth all is computed, at a lot of it all is loaded, and in between a part."""
    arrival = Arrival(0.0, 4096, 3584)
    loaded = []
    for bytes_s in (1e6, 3e9, 1e12):
        fabric = Fabric(nodes=1, nic_bytes_s=bytes_s, client_bytes_s=inf, advice=True)
        outcome = simulate(fabric, [arrival], "equal")[0]
        cold_s = simulate(fabric, [replace(arrival, hit_tokens=0)], "equal")[0].ttft_s
        assert outcome.ttft_s <= cold_s * 1.02
        loaded.append(outcome.chunks)
    assert loaded[0] == 0
    assert 0 < loaded[1] < 3584 // 16
    assert loaded[2] == 3584 // 16


def test_two_simulators_that_share_nothing_but_the_scheduler_agree() -> None:
    for mix in draw_mixes(5, 3):
        apart = added_ttft_s(mix, Scheduler("slack", {LINK: mix.cap_bytes_s}))
        assert mix_added_s(mix, "slack") == pytest.approx(list(apart), rel=0.02, abs=1e-3)
