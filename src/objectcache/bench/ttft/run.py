"""`bench ttft`: cell by cell, all paths in turn."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath

import torch
from rich.console import Console

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import StolenTime, describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, sample_row
from objectcache.bench.ttft.mixed import measure_mixed, mixed_rows
from objectcache.bench.ttft.paths import (
    CHUNKWISE_PATH,
    LAYERWISE,
    LOCAL,
    LOCAL_FIRST,
    RECOMPUTE,
    RESIDENT,
    SERVER_MODE,
    SPLIT,
    SPLIT_AT,
    LocalDram,
    Path,
    Recompute,
    Resident,
    Run,
    Through,
    copy_all,
    new_stream,
    path_of,
)
from objectcache.bench.ttft.rows import cell_rows, summary_of
from objectcache.bench.ttft.settings import LONGEST_CONTEXT, Cell, TtftSettings
from objectcache.bench.ttft.world import World
from objectcache.cache.base import Match
from objectcache.cache.tiering import TierOptions
from objectcache.device import DeviceLoader

PACKAGES = ("objectcache", "torch", "aiohttp", "lmdb", "msgpack", "numpy", "xxhash")
_SHARES = (60.0, 70.0, 80.0, 90.0)
"""Of a match, in percent: what the advised split is compared to."""
_FEWER = (RECOMPUTE, SPLIT_AT)
_GATEWAY_PATHS = (LAYERWISE, CHUNKWISE_PATH, SERVER_MODE, LOCAL_FIRST)
_COPY_ROUNDS = 5
_POOL_SLACK_BYTES = 16 << 20


def run_ttft(settings: TtftSettings, console: Console) -> BenchmarkResult:
    """Measure the cells; what is interrupted has those that are whole. Raises ObjectCacheError; nothing of it stays on
    the disk or runs on."""
    with ExitStack() as stack:
        progress = stack.enter_context(BenchmarkProgress(console, _steps(settings)))
        progress.begin("weights, the document's KV")
        world = stack.enter_context(World(settings))
        machine = describe_machine(settings.memory or FilePath("/dev/shm"), PACKAGES)
        machine["device"] = torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu"
        result = BenchmarkResult("ttft", settings.to_dict(), machine, settings.quick)
        world.compute_prefix()
        progress.step()
        loader = DeviceLoader(world.device, timed=True)
        measured: list[Cell] = []
        try:
            for cell in settings.cells:
                progress.begin(cell.name)
                result.rows += [*_measure(world, cell, loader, progress), _copy_row(world, cell)]
                measured.append(cell)
        except KeyboardInterrupt:  # an hour of a GPU is not to be lost for its last minute
            if not measured:
                raise
            result.options = replace(settings, cells=tuple(measured)).to_dict()
        result.summary |= summary_of(result.rows)
        return result


def merge_results(results: Sequence[BenchmarkResult]) -> BenchmarkResult:
    """Parts of one grid as one result. Raises BenchmarkError where they are not of one machine and one shape."""
    first = results[0]
    for other in results[1:]:
        for field in ("device", "cpu"):
            if other.machine.get(field) != first.machine.get(field):
                raise BenchmarkError(f"parts of different machines: {field} {other.machine.get(field)!r} is another")
        if other.options["architecture"] != first.options["architecture"]:
            raise BenchmarkError("parts of different architectures cannot be one result")
    cells = [cell for part in results for cell in part.options["cells"]]
    merged = BenchmarkResult(
        first.benchmark,
        {**first.options, "cells": cells},
        first.machine,
        any(part.quick for part in results),
        [row for part in results for row in part.rows],
        measured_at=first.measured_at,
    )
    merged.summary = summary_of(merged.rows)
    return merged


def _measure(world: World, cell: Cell, loader: DeviceLoader, progress: BenchmarkProgress) -> list[dict[str, object]]:
    settings = world.settings
    wanted = settings.paths or (RESIDENT, LOCAL, *_GATEWAY_PATHS, SPLIT, RECOMPUTE)
    resident = Resident(world, cell)
    resident.run()
    right = resident.run()
    windows_s = _windows_s(right)
    _learn(world, cell)
    with ExitStack() as stack:
        gateway = world.gateway(cell.stored)
        gateway.set_bandwidth(cell.gbps)
        # What was delivered is kept in the local tier only where it takes less than half of the pool.
        pool_bytes = 2 * world.layer_bytes(cell) * len(world.layers) + _POOL_SLACK_BYTES
        tier = TierOptions(
            limit_bytes=int(settings.first_layers * world.layer_bytes(cell) * 1.2) + _POOL_SLACK_BYTES,
            directory=str(world.directory("tier")),
            first_layers=settings.first_layers,
        )
        cache = world.open_client(gateway, buffer_bytes=pool_bytes, target=cell.target, tier=tier, pin=True)
        stack.callback(cache.close)
        tiering = cache.tiering
        paths: dict[str, Path] = {RESIDENT: resident, LOCAL: LocalDram(world, cell)}
        for name in _GATEWAY_PATHS:
            if name in wanted:
                held = tiering if name == LOCAL_FIRST else None
                through = Through(world, cell, cache, loader, windows_s=windows_s, tiering=held, **path_of(name))
                paths[name] = through
                if held is not None:
                    through.fill_tier()
        if SPLIT in wanted and not cell.step_tokens:
            loads = {SPLIT: partial(_advised, world, cell)}
            if cell.gbps and cell.context < LONGEST_CONTEXT:
                prefix = cell.prefix_tokens(world.shape.chunk_tokens)
                loads |= {f"{SPLIT_AT} {share:g} %": partial(_part_of, world, prefix, share) for share in _SHARES}
            for name, load in loads.items():
                paths[name] = Through(world, cell, cache, loader, windows_s=windows_s, layers_per_unit=1, load=load)
        if RECOMPUTE in wanted:
            paths[RECOMPUTE] = Recompute(world, cell)
        for name, path in paths.items():
            if not name.startswith(_FEWER):
                path.run()  # connections, memory and kernels are warm
        runs: dict[str, list[Run]] = {name: [] for name in paths}
        order = random.Random(settings.seed)
        stolen = StolenTime()
        for index in range(settings.runs):
            # In another order each time: whoever comes after one that was like it finds caches and processes awake.
            for name in order.sample(list(paths), len(paths)):
                path = paths[name]
                if not name.startswith(_FEWER) or index < settings.recompute_runs:
                    runs[name].append(path.run())
            progress.step()
        stolen_pct = stolen.pct
        mixed = []
        if settings.decodes and not cell.step_tokens:
            loaded = Through(world, cell, cache, loader, windows_s=windows_s)
            mixed = mixed_rows(cell, measure_mixed(world, loaded, windows_s, settings.runs), right.logits)
        cache.tiering = tiering  # closed with the cache
    equal = {
        name: None
        if name == RECOMPUTE or name.startswith(SPLIT)
        else all(torch.equal(run.logits, right.logits) for run in found)
        for name, found in runs.items()
    }
    return cell_rows(cell, runs, world.layer_bytes(cell), equal, stolen_pct) + mixed


def _learn(world: World, cell: Cell) -> None:
    """Windows of steps behind the whole prefix and half of it, for the advice: an engine has seen such steps before."""
    prefix = cell.prefix_tokens(world.shape.chunk_tokens)
    for first in (prefix, prefix // 2 // world.shape.chunk_tokens * world.shape.chunk_tokens):
        step = Resident(world, cell, first=first)
        step.run()
        world.windows.observe(cell.context - first, first, statistics.median(_windows_s(step.run())))


def _advised(world: World, cell: Cell, whole: Match, rate_bytes_s: float | None) -> int:
    advice = whole.advice(cell.context, world.windows, rate_bytes_s=rate_bytes_s)
    return whole.tokens if advice is None else advice.load_tokens


def _part_of(world: World, prefix: int, share: float, whole: Match, rate_bytes_s: float | None) -> int:
    return int(prefix * share / 100) // world.shape.chunk_tokens * world.shape.chunk_tokens


def _windows_s(run: Run) -> list[float]:
    """Compute seconds of each layer, as engines would know them from earlier requests."""
    needed = run.timeline.needed_ms
    ends = [*needed[1:], run.timeline.computed_ms[-1]]
    return [max(0.0, end - start) / 1e3 for start, end in zip(needed, ends, strict=True)]


def _copy_row(world: World, cell: Cell) -> dict[str, object]:
    """What copies alone take: the host-to-device rate that local DRAM could reach."""
    layer_bytes = world.layer_bytes(cell) * len(world.layers)
    stream = new_stream(world.device)
    rates = []
    for _ in range(_COPY_ROUNDS):
        world.sync()
        start_s = time.perf_counter()
        copy_all(world, cell, stream)
        world.sync()
        rates.append(layer_bytes / (time.perf_counter() - start_s) / 1e9)
    return sample_row(f"{cell.name}: copies alone", "GB/s", rates, context=cell.context, hit=cell.hit)


def _steps(settings: TtftSettings) -> int:
    return 1 + len(settings.cells) * settings.runs
