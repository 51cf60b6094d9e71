"""`bench contention`, from an empty directory to a result."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from objectcache.bench.contention.real import RealOutcome, RealSystem, prefix_tokens
from objectcache.bench.contention.rows import EQUAL, REAL, SIMULATED, Measured, ratio, row, summary
from objectcache.bench.contention.settings import ContentionSettings
from objectcache.bench.contention.simulated import simulated_s
from objectcache.bench.machine import describe_machine
from objectcache.bench.progress import BenchmarkProgress
from objectcache.bench.result import BenchmarkResult, sample_row
from objectcache.simulation.mixes import Mix, draw_mixes

PACKAGES = ("objectcache", "aiohttp", "msgpack", "numpy")
WRONG = {"windows halved": 0.5, "windows doubled": 2.0}
LIES = {"one says 0": 0.0, "one says an hour": 3600.0}


def run_contention(settings: ContentionSettings, console: Console) -> BenchmarkResult:
    """Measure everything. Raises ObjectCacheError; nothing of it stays on the disk or runs on."""
    with ExitStack() as stack:
        if settings.data is not None:
            settings.data.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="objectcache-bench-", dir=settings.data)
        directory = Path(stack.enter_context(made))
        machine = describe_machine(directory, PACKAGES)
        result = BenchmarkResult("contention", settings.to_dict(), machine, settings.quick)
        mixes = draw_mixes(settings.seed, settings.mixes)
        real = mixes[: settings.real_mixes]
        clients = max((len(mix.requests) for mix in real), default=0)
        progress = stack.enter_context(BenchmarkProgress(console, _steps(settings, clients)))
        measured = []
        if real:
            progress.begin("storing, starting clients")
            system = stack.enter_context(
                RealSystem(
                    clients=clients,
                    prefixes={prefix_tokens(request) for mix in real for request in mix.requests},
                    scale=settings.scale,
                    target=settings.target,
                    streams=settings.streams,
                    verify=settings.verify,
                    data=directory,
                    step=progress.step,
                )
            )
            measured = _Real(settings, system, progress, result).measure(real)
        progress.begin("simulated")
        for number, mix in enumerate(mixes):
            for policy in settings.policies if number >= len(real) else ():
                measured.append(Measured(number, mix, policy, SIMULATED, [simulated_s(mix, policy)]))
            progress.step()
        result.rows += [row(one) for one in measured]
        result.summary |= summary(measured, settings.default_policy) | wrong_summary(measured, settings.default_policy)
        return result


@dataclass
class _Real:
    """Mixes through the real gateway."""

    settings: ContentionSettings
    system: RealSystem
    progress: BenchmarkProgress
    result: BenchmarkResult
    _ways: dict[tuple[int, str, str], Measured] = field(default_factory=dict)

    def measure(self, mixes: Sequence[Mix]) -> list[Measured]:
        settings = self.settings
        self.progress.begin("without a cap")
        uncapped = self.system.uncapped_bytes_s
        highest = max(mix.cap_bytes_s for mix in mixes) / settings.scale
        about = {"clients": self.system.clients, "highest_scaled_cap_gb_s": highest / 1e9}
        self.result.rows.append(sample_row("goodput without a cap", "GB/s", [uncapped / 1e9], **about))
        self.result.summary["uncapped_over_highest_cap"] = uncapped / highest
        self.progress.step()
        measured = []
        for number, mix in enumerate(mixes):
            truth = [request.window_s for request in mix.requests]
            ways = [(policy, "", truth) for policy in settings.policies]
            if number < settings.wrong_mixes:
                ways += [(settings.default_policy, name, told) for name, told in wrong_windows(truth).items()]
            measured += self._in_turn(number, mix, ways)
        return measured

    def _in_turn(self, number: int, mix: Mix, ways: Sequence[tuple[str, str, list[float]]]) -> list[Measured]:
        """Every way once, and that as often as there are repeats."""
        outcomes: list[list[list[RealOutcome]]] = [[] for _ in ways]
        cpu: list[list[tuple[float, float]]] = [[] for _ in ways]
        for _ in range(self.settings.repeats):
            for index, (policy, windows, told_s) in enumerate(ways):
                self.progress.begin(f"mix {number}, {policy}" + (f", {windows}" if windows else ""))
                before = time.perf_counter(), self.system.clients_cpu_s(), self.system.gateway_cpu_s()
                outcomes[index].append(
                    self.system.run(mix.requests, policy=policy, cap_bytes_s=mix.cap_bytes_s, told_windows_s=told_s)
                )
                seconds = time.perf_counter() - before[0]
                clients_s = self.system.clients_cpu_s() - before[1]
                cpu[index].append((clients_s / seconds, (self.system.gateway_cpu_s() - before[2]) / seconds))
                self.progress.step()
        return [
            Measured(
                number,
                mix,
                policy,
                REAL,
                [[outcome.added_s for outcome in run] for run in outcomes[index]],
                windows,
                _about(mix, policy, outcomes[index], cpu[index]) if not windows else {},
            )
            for index, (policy, windows, _) in enumerate(ways)
        ]


def wrong_windows(truth_s: Sequence[float]) -> dict[str, list[float]]:
    """What is told instead: all of them wrong by a factor, or the client with the most bytes behind its back lies."""
    longest = max(range(len(truth_s)), key=lambda index: truth_s[index])
    wrong = {name: [window * factor for window in truth_s] for name, factor in WRONG.items()}
    for name, lie_s in LIES.items():
        wrong[name] = [lie_s if index == longest else window for index, window in enumerate(truth_s)]
    return wrong


def _about(
    mix: Mix, policy: str, runs: Sequence[Sequence[RealOutcome]], cpu: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """Beside added TTFTs: what the simulator says, whether the machine was the limit, and the clocks' own errors."""
    every = [outcome for run in runs for outcome in run]
    windows_s = [request.layers * request.window_s for run in runs for request in mix.requests[: len(run)]]
    beyond_s = [one.ended_s - local_s - one.added_s for one, local_s in zip(every, windows_s, strict=True)]
    return {
        "simulated_ms": [added * 1e3 for added in simulated_s(mix, policy)],
        "clients_cpu": statistics.median(clients for clients, _ in cpu),
        "gateway_cpu": statistics.median(gateway for _, gateway in cpu),
        "cores": os.cpu_count(),
        "answered_ms_max": max(one.answered_s for one in every) * 1e3,
        "began_late_ms_max": max(one.began_s for one in every) * 1e3,
        "waited_too_long_ms_max": max(beyond_s) * 1e3,
    }


def wrong_summary(measured: Sequence[Measured], default_policy: str) -> dict[str, Any]:
    """With all windows wrong: the gain over `equal`. With one that lies: what the others' mean is over the truth's."""
    found = {(one.number, one.policy, one.windows): one for one in measured}
    figures: dict[str, dict[str, float]] = {"gain_wrong_windows": {}, "others_beside_a_liar": {}, "liar_itself": {}}
    for name in [*WRONG, *LIES]:
        numbers = [number for number, _, windows in found if windows == name]
        if not numbers:
            continue
        gains, others, own = [], [], []
        for number in numbers:
            wrong, truth = found[number, default_policy, name], found[number, default_policy, ""]
            gains.append(ratio(found[number, EQUAL, ""].mean_s, wrong.mean_s))
            windows_s = [request.window_s for request in wrong.mix.requests]
            liar = max(range(len(windows_s)), key=lambda index: windows_s[index])
            apart = [[one.request_s[liar], sum(one.request_s) - one.request_s[liar]] for one in (wrong, truth)]
            own.append(ratio(apart[0][0], apart[1][0]))
            others.append(ratio(apart[0][1], apart[1][1]))
        if name in WRONG:
            figures["gain_wrong_windows"][name] = statistics.geometric_mean(gains)
        else:
            figures["others_beside_a_liar"][name] = max(others)
            figures["liar_itself"][name] = min(own)
    return {name: figure for name, figure in figures.items() if figure}


def _steps(settings: ContentionSettings, clients: int) -> int:
    ways = len(settings.policies) * settings.real_mixes + (len(WRONG) + len(LIES)) * settings.wrong_mixes
    return clients + bool(settings.real_mixes) + ways * settings.repeats + settings.mixes
