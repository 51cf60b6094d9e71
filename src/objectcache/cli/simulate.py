"""`objectcache simulate`: policies under a simulated clock."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from objectcache.bench.bars import judge
from objectcache.bench.report import show_verdicts
from objectcache.bench.shapes import LLAMA_31_8B, SHAPES
from objectcache.cli.bench.options import require
from objectcache.config import parse_rate
from objectcache.errors import ConfigError
from objectcache.scheduling import DEFAULT_POLICY, POLICIES

if TYPE_CHECKING:
    from objectcache.bench.simulate.settings import SimulateSettings

EQUAL = "equal"
_LINE = "100Gbps"


def add_to(app: typer.Typer) -> None:
    app.command("simulate")(command)


def command(
    workload: Annotated[
        str,
        typer.Argument(
            metavar="WORKLOAD",
            help="poisson, bursts, conversations, or a file of JSON lines: of ours, or a trace such as Mooncake's.",
        ),
    ] = "poisson",
    policy: Annotated[list[str] | None, typer.Option(help="Of bandwidth; may be repeated.", show_default="all")] = None,
    requests: Annotated[
        int | None, typer.Option(help="How many are drawn, or read of a file.", min=1, show_default="1000; all")
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Requests a second, over all nodes.", min=0.0, show_default="as --load says")
    ] = 0.0,
    load: Annotated[float, typer.Option(help="Of the busiest of engines and links, on the mean.")] = 0.7,
    context: Annotated[
        list[int] | None, typer.Option(help="Tokens; drawn of all given.", show_default="4096, 16384, 65536")
    ] = None,
    hit: Annotated[
        list[float] | None, typer.Option(help="Share that is stored; drawn of all given.", show_default="0.5, 0.875")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 1,
    speed: Annotated[float, typer.Option(help="Serve a file so many times as fast as it says.")] = 1.0,
    cache_tokens: Annotated[
        int | None, typer.Option(help="What fits the store, for traces with hash_ids.", min=0, show_default="all")
    ] = None,
    block_tokens: Annotated[int, typer.Option(help="Tokens of a hash id.", min=1)] = 512,
    visible_ms: Annotated[float, typer.Option(help="From a request to its blocks being stored.", min=0.0)] = 0.0,
    nodes: Annotated[int, typer.Option(help="Serving nodes.", min=1)] = 8,
    gateways: Annotated[int, typer.Option(help="Gateways, each for its share of the nodes.", min=1)] = 1,
    bandwidth: Annotated[str, typer.Option(help="Of each gateway's NIC.")] = _LINE,
    client_bandwidth: Annotated[str, typer.Option(help="Of each node's NIC.")] = _LINE,
    store_bandwidth: Annotated[str, typer.Option(help="Of the store behind all gateways.", show_default="no cap")] = "",
    layers_per_unit: Annotated[int, typer.Option(help="0: as the server decides.", min=0)] = 0,
    step_tokens: Annotated[int, typer.Option(help="Most of an engine's step; 0: a prefill is one.", min=0)] = 0,
    loads_ahead: Annotated[int, typer.Option(help="Requests of a node's queue that load already.", min=0)] = 1,
    shape: Annotated[str, typer.Option(help=f"Of the KV: {', '.join(SHAPES)}.")] = LLAMA_31_8B.key,
    advice: Annotated[bool, typer.Option("--advice", help="Load or recompute, as the advice says.")] = False,
    decide_ms: Annotated[
        float,
        typer.Option(
            help="Least time between decisions of a gateway, if nothing begins or ends; 0: as the policy asks.", min=0.0
        ),
    ] = 10.0,
    weight: Annotated[
        list[str] | None, typer.Option(help="A tenant's share, as NAME=2; may be repeated.", show_default="1 each")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Policies at once.", min=0, show_default="the cores")] = 0,
    mixes: Annotated[int, typer.Option(help="Instead: so many drawn mixes on one link.", min=0)] = 0,
    check: Annotated[bool, typer.Option("--check", help="Instead: the same requests through a real gateway.")] = False,
    repeats: Annotated[int, typer.Option(help="How often --check runs them.", min=2)] = 5,
    json: Annotated[Path | None, typer.Option("--json", help="Write the result there.", show_default=False)] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw a PNG; needs objectcache\\[plot].", show_default=False)
    ] = None,
) -> None:
    """TTFT by policy, on thousands of nodes with hundreds of gateways, in simulated time. Needs objectcache\\[sim].

    The scheduler, the units and the choice of modes are those of the gateway; links, engines and requests are
    simulated. The result is the same for the same options. With --check, exits with 1 where reality is elsewhere.

    [bold]Examples[/bold]

      objectcache simulate --nodes 64 --gateways 4 --policy equal --policy slack --plot ttft.png

      objectcache simulate mooncake_trace.jsonl --nodes 16 --cache-tokens 50000000

      objectcache simulate --mixes 40 --json mixes.json

      objectcache simulate --check --json check.json
    """
    console = Console()
    require(True, "simpy", "objectcache simulate", "sim")
    require(plot is not None, "matplotlib", "--plot", "plot")
    if unknown := set(policy or ()) - POLICIES.keys():
        raise ConfigError(f"--policy is one of {', '.join(POLICIES)}, got {unknown.pop()!r}")
    policies = tuple(dict.fromkeys(policy or POLICIES))
    if mixes:
        _mixes(mixes, seed, policies, json, console)
        return
    if check:
        _check(tuple(dict.fromkeys(policy or (EQUAL, DEFAULT_POLICY))), repeats, seed, json, console)
        return
    if shape not in SHAPES:
        raise ConfigError(f"--shape is one of {', '.join(SHAPES)}, got {shape!r}")
    from objectcache.bench.simulate.settings import SimulateSettings
    from objectcache.simulation.engine import EngineSpeed
    from objectcache.simulation.settings import Fabric
    from objectcache.simulation.workload import CONTEXTS, HITS

    settings = SimulateSettings(
        fabric=Fabric(
            layout=SHAPES[shape].layout,
            engine=EngineSpeed(step_tokens=step_tokens),
            nodes=nodes,
            gateways=gateways,
            store_bytes_s=parse_rate(store_bandwidth) if store_bandwidth else inf,
            nic_bytes_s=parse_rate(bandwidth),
            client_bytes_s=parse_rate(client_bandwidth),
            loads_ahead=loads_ahead,
            layers_per_unit=layers_per_unit,
            advice=advice,
            decide_s=decide_ms / 1e3,
            weights=dict(map(_weight, weight or ())),
        ),
        policies=policies,
        workload=workload,
        requests=requests,
        rate=rate,
        load=load,
        contexts=tuple(context or CONTEXTS),
        hits=tuple(hit or HITS),
        seed=seed,
        speed=speed,
        block_tokens=block_tokens,
        cache_tokens=inf if cache_tokens is None else cache_tokens,
        visible_s=visible_ms / 1e3,
        jobs=jobs,
        shape=SHAPES[shape],
    )
    _workload(settings, json, plot, console)


def _weight(text: str) -> tuple[str, float]:
    tenant, _, number = text.rpartition("=")
    try:
        return tenant, float(number)
    except ValueError as error:
        raise ConfigError(f"--weight is NAME=NUMBER, got {text!r}") from error


def _workload(settings: SimulateSettings, json: Path | None, plot: Path | None, console: Console) -> None:
    from objectcache.bench.simulate.run import run_workload, show_policies

    result = run_workload(settings, console)
    show_policies(console, result)
    if json is not None:
        result.write(json)
    if plot is not None:
        from objectcache.bench.simulate.plot import draw

        draw(result, plot)


def _mixes(count: int, seed: int, policies: tuple[str, ...], json: Path | None, console: Console) -> None:
    from objectcache.bench.simulate.mixes import run_mixes, show_mixes

    result = run_mixes(count, seed, policies, console)
    show_mixes(console, result)
    if json is not None:
        result.write(json)


def _check(policies: tuple[str, ...], repeats: int, seed: int, json: Path | None, console: Console) -> None:
    from objectcache.bench.simulate.check import BARS, CheckSettings, run_check, show_check

    result = run_check(CheckSettings(policies, repeats, seed=seed), console)
    show_check(console, result)
    if json is not None:
        result.write(json)
    verdicts = judge(BARS, result.summary)
    show_verdicts(console, verdicts)
    if not all(verdict.met for verdict in verdicts):
        raise typer.Exit(1)
