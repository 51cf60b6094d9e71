"""The tables of docs/benchmarks/scheduling.md: policies on drawn mixes over fluid links, by the scheduler that ships.

python scripts/scheduling-policies.py --mixes 160 --small 40
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import exp, inf, log
from statistics import mean, median
from time import perf_counter

from objectcache.scheduling import DEFAULT_POLICY, POLICIES, Scheduler, Sent
from objectcache.simulation.evaluating import PolicyRow, evaluate_policies
from objectcache.simulation.fluid import LINK, added_ttft_s, admission
from objectcache.simulation.mixes import Mix, MixRequest, draw_mixes
from objectcache.simulation.orders import draw_at_once, least_added_s

SEED = 5
SAID_WINDOWS = (0.5, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixes", type=int, default=40)
    parser.add_argument(
        "--small", type=int, default=12, help="instances of 4 requests; half as many of 5, a quarter of 6"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    mixes = draw_mixes(arguments.seed, arguments.mixes)
    print(f"{len(mixes)} mixes, {sum(len(mix.requests) for mix in mixes)} requests, seed {arguments.seed}\n")
    print("| policy | gain, geomean | least | most | p95 pooled | worst request | mean added |\n|" + " --- |" * 7)
    for policy in POLICIES:
        show(evaluate_policies(mixes, [policy]), policy)
    for said in SAID_WINDOWS:
        show(evaluate_policies(mixes, [DEFAULT_POLICY], said), f"{DEFAULT_POLICY}, windows said × {said}")
    print("\n| requests | instances | policy | over the best order, geomean | p90 | most |\n|" + " --- |" * 6)
    for requests, count in ((4, arguments.small), (5, arguments.small // 2), (6, arguments.small // 4)):
        show_distances(draw_at_once(arguments.seed, count, requests), requests)
    print("\n| one says | the others' mean added over honest, geomean | most | its own, geomean |\n|" + " --- |" * 4)
    for said, name in ((0.0, "windows of 0"), (inf, "infinite windows")):
        show_lies(mixes[:40], said, name)
    print()
    for requests in (4, 8, 16, 32, 64):
        show_decision_time(requests)


def show(rows: Sequence[PolicyRow], name: str) -> None:
    for row in rows:
        print(
            f"| {name} | {row.gain_geomean:.2f} | {row.gain_min:.2f} | {row.gain_max:.2f} | {row.p95_ratio_pooled:.2f} "
            f"| {row.max_ratio_worst:.2f} | {row.mean_added_s * 1e3:.0f} ms |",
            flush=True,
        )


def geomean(values: Sequence[float]) -> float:
    return exp(mean(map(log, values)))


def show_distances(mixes: Sequence[Mix], requests: int) -> None:
    best = [least_added_s(mix) for mix in mixes]
    for policy in ("equal", "slack", DEFAULT_POLICY) if mixes else ():
        over = sorted(
            mean(added_ttft_s(mix, Scheduler(policy, {LINK: mix.cap_bytes_s}))) / least
            for mix, least in zip(mixes, best, strict=True)
        )
        p90 = over[int(0.9 * len(over))]
        print(f"| {requests} | {len(over)} | {policy} | {geomean(over):.3f} | {p90:.3f} | {over[-1]:.3f} |", flush=True)


def show_lies(mixes: Sequence[Mix], said: float, name: str) -> None:
    others, own = [], []
    for number, mix in enumerate(mixes):
        liar = number % len(mix.requests)
        windows = [said if request == liar else 1.0 for request in range(len(mix.requests))]
        honest = list(added_ttft_s(mix, Scheduler(DEFAULT_POLICY, {LINK: mix.cap_bytes_s})))
        lied = list(added_ttft_s(mix, Scheduler(DEFAULT_POLICY, {LINK: mix.cap_bytes_s}), windows))
        own.append(max(1e-6, lied.pop(liar)) / max(1e-6, honest.pop(liar)))
        others.append(mean(lied) / mean(honest))
    print(f"| {name} | {geomean(others):.3f} | {max(others):.2f} | {geomean(own):.2f} |", flush=True)


def show_decision_time(requests: int) -> None:
    """Deciding among so many, every 2 ms, while what was decided is sent."""
    shapes: list[MixRequest] = [request for mix in draw_mixes(SEED, 40) for request in mix.requests][:requests]
    scheduler = Scheduler(DEFAULT_POLICY, {LINK: 6.25e9})
    for number, request in enumerate(shapes):
        scheduler.apply(admission(number, request, 0.0))
    sent = [0.0] * requests
    took_s = []
    for step in range(400):
        now_s = step * 2e-3
        for number in range(requests):
            scheduler.apply(Sent(now_s, number, int(sent[number])))
        began_s = perf_counter()
        decision = scheduler.decide(now_s)
        took_s.append(perf_counter() - began_s)
        for number, request in enumerate(shapes):
            sent[number] = min(request.total_bytes - 1e6, sent[number] + decision.bytes_s[number] * 2e-3)
    took_s.sort()
    print(
        f"a decision among {requests}: median {median(took_s) * 1e6:.0f} µs, p90 {took_s[int(0.9 * 400)] * 1e6:.0f}, "
        f"p99 {took_s[int(0.99 * 400)] * 1e6:.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
