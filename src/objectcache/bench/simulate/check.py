"""`objectcache simulate --check`: the same requests in the simulator and through a real gateway, one by one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import Random

from rich import box
from rich.console import Console
from rich.table import Table

from objectcache.bench.bars import Bar
from objectcache.bench.contention.real import RealOutcome, RealSystem, prefix_tokens
from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, Row, sample_row
from objectcache.layout import KVLayout
from objectcache.simulation.mixes import BYTES_PER_TOKEN, LAYERS, WINDOWS_S, MixRequest
from objectcache.simulation.run import simulate
from objectcache.simulation.settings import LINE_BYTES_S, Fabric
from objectcache.simulation.workload import Arrival

BARS = (Bar("within_tolerance", 1.0),)
REQUESTS = 20
SHARE, LEAST_MS = 0.10, 3.0
"""An error may be so much of the added TTFT, or so many ms, or the real system's own spread: the most of these."""
_PACKAGES = ("objectcache", "simpy", "aiohttp", "msgpack")


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Bytes and cap are divided by `scale`, in both worlds."""

    policies: tuple[str, ...]
    repeats: int = 5
    cap_bytes_s: float = LINE_BYTES_S
    scale: int = 64
    seed: int = 1
    data: Path | None = None


def drawn_requests(seed: int, cap_bytes_s: float) -> tuple[MixRequest, ...]:
    """20 of all shapes, that arrive over half of the time that their bytes take, so that several are always at it."""
    random = Random(seed)
    shapes = [random.choice(list(WINDOWS_S)) for _ in range(REQUESTS)]
    span_s = sum(context * hit for context, hit in shapes) * BYTES_PER_TOKEN / cap_bytes_s / 2
    arrivals = sorted(random.uniform(0.0, span_s) for _ in shapes)
    return tuple(
        MixRequest(
            arrival_s=arrival_s - arrivals[0],
            context_tokens=context,
            hit=hit,
            layers=LAYERS,
            layer_bytes=int(context * hit) * BYTES_PER_TOKEN // LAYERS,
            window_s=WINDOWS_S[context, hit],
        )
        for arrival_s, (context, hit) in zip(arrivals, shapes, strict=True)
    )


def run_check(settings: CheckSettings, console: Console) -> BenchmarkResult:
    """Raises ObjectCacheError."""
    requests = drawn_requests(settings.seed, settings.cap_bytes_s)
    options = {
        "policies": list(settings.policies),
        "repeats": settings.repeats,
        "cap_bytes_s": settings.cap_bytes_s,
        "scale": settings.scale,
        "seed": settings.seed,
    }
    machine = describe_machine(settings.data or Path(), _PACKAGES)
    result = BenchmarkResult("simulate --check", options, machine, quick=False)
    steps = REQUESTS + settings.repeats * len(settings.policies)
    with (
        BenchmarkProgress(console, steps) as progress,
        _system(requests, settings, progress) as system,
    ):
        real: dict[str, list[list[RealOutcome]]] = {policy: [] for policy in settings.policies}
        for _ in range(settings.repeats):
            for policy, runs in real.items():
                progress.begin(f"20 requests, {policy}")
                runs.append(system.run(requests, policy=policy, cap_bytes_s=settings.cap_bytes_s))
                progress.step()
        layout = system.shape.layout
    for policy, runs in real.items():
        simulated_s = simulated(requests, policy, layout, settings.cap_bytes_s / settings.scale)
        for number, request in enumerate(requests):
            added_ms = [run[number].added_s * 1e3 for run in runs]
            result.rows.append(compared(f"request {number}, {policy}", request, added_ms, simulated_s[number] * 1e3))
    result.summary |= summary(result.rows)
    return result


def _system(requests: Sequence[MixRequest], settings: CheckSettings, progress: BenchmarkProgress) -> RealSystem:
    progress.begin("storing, starting clients")
    prefixes = set(map(prefix_tokens, requests))
    return RealSystem(
        clients=len(requests), prefixes=prefixes, scale=settings.scale, data=settings.data, step=progress.step
    )


def simulated(requests: Sequence[MixRequest], policy: str, layout: KVLayout, cap_bytes_s: float) -> list[float]:
    """Added TTFT of each, on a node of its own; `layout` and `cap_bytes_s` are scaled alike."""
    fabric = Fabric(
        layout=layout,
        nodes=len(requests),
        nic_bytes_s=cap_bytes_s,
        client_bytes_s=inf,
        layers_per_unit=1,
    )
    arrivals = [
        Arrival(request.arrival_s, request.context_tokens, prefix_tokens(request), node=node, window_s=request.window_s)
        for node, request in enumerate(requests)
    ]
    return [outcome.added_s for outcome in simulate(fabric, arrivals, policy)]


def compared(name: str, request: MixRequest, real_ms: Sequence[float], simulated_ms: float) -> Row:
    """Samples are the real system's; `error_ms` is how far the simulation is from their median."""
    median = statistics.median(real_ms)
    spread_ms = max(real_ms) - min(real_ms)
    tolerance_ms = max(SHARE * median, LEAST_MS, spread_ms)
    error_ms = abs(simulated_ms - median)
    return sample_row(
        name,
        "ms",
        real_ms,
        context=request.context_tokens,
        hit=request.hit,
        arrival_s=request.arrival_s,
        simulated_ms=simulated_ms,
        error_ms=error_ms,
        spread_ms=spread_ms,
        tolerance_ms=tolerance_ms,
        within=error_ms <= tolerance_ms,
    )


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """`per_request_error_max` in ms; `error_over_tolerance_max` is 1 where a request is just within."""
    return {
        "within_tolerance": statistics.fmean(row["within"] for row in rows),
        "per_request_error_max": max(row["error_ms"] for row in rows),
        "error_over_tolerance_max": max(row["error_ms"] / row["tolerance_ms"] for row in rows),
        "spread_max": max(row["spread_ms"] for row in rows),
    }


def show_check(console: Console, result: BenchmarkResult) -> None:
    """A line for each request."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("added TTFT, ms")
    for column in ("real", "spread", "simulated", "error", "tolerance"):
        table.add_column(column, justify="right")
    for row in result.rows:
        figures = [row[key] for key in ("median", "spread_ms", "simulated_ms", "error_ms", "tolerance_ms")]
        style = "" if row["within"] else "red"
        table.add_row(
            f"{row['name']}, {row['context'] // 1024}K", *(f"{figure:.1f}" for figure in figures), style=style
        )
    console.print(table)
