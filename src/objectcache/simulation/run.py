"""One policy, one workload, one fabric: from the first arrival to the last first token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import simpy

from objectcache.errors import ConfigError
from objectcache.scheduling import WeightChanged
from objectcache.simulation.gateway import SimulatedGateway, Steps
from objectcache.simulation.node import Outcome, SimulatedNode
from objectcache.simulation.planning import Prefill, plan_prefill
from objectcache.simulation.settings import Fabric
from objectcache.simulation.workload import Arrival

STEP_REQUESTS = 256
"""How many requests are served between two words of progress."""


def simulate(
    fabric: Fabric, arrivals: Sequence[Arrival], policy: str, progress: Callable[[int], None] = lambda served: None
) -> list[Outcome]:
    """An outcome for each of `arrivals`, which come in order of time; the same for the same arguments.

    `progress` is told how many more have their first token. Raises ConfigError.
    """
    env = simpy.Environment()
    gateways = [
        SimulatedGateway(env, fabric, policy, range(number, fabric.nodes, fabric.gateways))
        for number in range(fabric.gateways)
    ]
    for tenant, weight in fabric.weights.items():
        for gateway in gateways:
            gateway.tell(WeightChanged(0.0, tenant, weight))
    nodes = [SimulatedNode(env, fabric, number, gateways[number % fabric.gateways]) for number in range(fabric.nodes)]
    placed = place(arrivals, fabric.nodes)
    prefills = [plan_prefill(fabric, arrival) for arrival in arrivals]
    outcomes = [Outcome(local_s) for local_s in local_ttft_s(arrivals, placed, prefills)]
    served = 0

    def count(_: simpy.Event) -> None:
        nonlocal served
        served += 1
        if served % STEP_REQUESTS == 0:
            progress(STEP_REQUESTS)

    def arriving() -> Steps:
        for number, arrival in enumerate(arrivals):
            if arrival.arrival_s > env.now:
                yield env.timeout(arrival.arrival_s - env.now)
            node = nodes[placed[number]]
            request = env.process(node.serve(number, arrival.tenant, prefills[number], outcomes[number]))
            assert request.callbacks is not None
            request.callbacks.append(count)

    env.process(arriving())
    env.run()
    progress(served % STEP_REQUESTS)
    return outcomes


def place(arrivals: Sequence[Arrival], nodes: int) -> list[int]:
    """A node for each: the one that it names, that of its source, or the next in turn. No policy changes that, so that
    requests can be compared one by one. Raises ConfigError for a node that is not there."""
    places: list[int] = []
    of_source: dict[str, int] = {}
    turn = 0
    for arrival in arrivals:
        node = arrival.node if arrival.node is not None else of_source.get(arrival.source)
        if node is None:
            node, turn = turn % nodes, turn + 1
            if arrival.source:
                of_source[arrival.source] = node
        if node >= nodes:
            raise ConfigError(f"the workload names node {node}, there are {nodes}")
        places.append(node)
    return places


def local_ttft_s(arrivals: Sequence[Arrival], placed: Sequence[int], prefills: Sequence[Prefill]) -> list[float]:
    """What TTFT would be with all prefixes in local memory: waiting for the node, and computing."""
    free_s: dict[int, float] = {}
    ttft_s = []
    for arrival, node, prefill in zip(arrivals, placed, prefills, strict=True):
        free_s[node] = max(arrival.arrival_s, free_s.get(node, 0.0)) + prefill.compute_s
        ttft_s.append(free_s[node] - arrival.arrival_s)
    return ttft_s
